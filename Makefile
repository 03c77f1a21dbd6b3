# tuneloop: every target does its own set-up, into .venv/.
# `make loop` runs the whole loop on this machine; `make test` runs the tests; `make check` is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV ?= uv
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

.PHONY: setup setup-dev setup-debian loop test check golden bench lock clean

setup: $(VENV)/.train
setup-dev: $(VENV)/.dev

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tuneloop needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: requirements/train.txt pyproject.toml | $(VENV)/bin/python
	$(PIP_INSTALL) --require-hashes -r requirements/train.txt
	$(PIP_INSTALL) --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.train
	$(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	touch $@

loop: $(VENV)/.train
	$(BIN)/tuneloop demo

# A browser and a database server for the tests; without root it only says what is missing, and the
# tests that need it skip.
setup-debian:
	@if [ "$$(id -u)" -eq 0 ]; then tests/debian-packages; else tests/debian-packages --check || true; fi

test: $(VENV)/.dev setup-debian
	$(BIN)/python -m pytest

check: test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

golden: $(VENV)/.dev
	TUNELOOP_WRITE_GOLDEN=1 $(BIN)/python -m pytest -q -n 0 --no-cov -m golden

bench: $(VENV)/.dev
	for script in bench/*.py; do $(BIN)/python $$script || exit 1; done

LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --extra build

lock:
	$(LOCK) --extra data --extra gcs --extra s3 --extra store --extra k8s --extra train --extra dev pyproject.toml -o requirements/dev.txt
	$(LOCK) --extra data --extra gcs --extra s3 --extra store --extra train -c requirements/dev.txt pyproject.toml -o requirements/train.txt
	$(LOCK) --extra data --extra gcs --extra s3 --extra store --extra k8s -c requirements/dev.txt pyproject.toml -o requirements/base.txt

clean:
	rm -rf $(VENV) .tuneloop
