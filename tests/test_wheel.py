"""The wheel works in an empty folder and an environment without other packages."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests.builders import REPOSITORY, TinyRun, make_tiny_run
from tests.demo.first import assert_same_bytes, first_demo

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with `make wheel`, from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("lib", "jobs", "manifests", "requirements", "eval"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "Makefile"):
        shutil.copy(REPOSITORY / name, source / name)
    # The checkout's environment builds the wheel, so that make does not set up another one.
    make = ["make", "--quiet", "wheel", f"BIN={Path(sys.executable).parent}", "SETUP="]
    subprocess.run(make, cwd=source, check=True, capture_output=True)
    (built,) = (source / "dist").glob("tuneloop-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin/ of a new environment with only the packages of the lock and the wheel.

    `make setup` has installed the same lock with its hashes, so its files are linked.
    """
    environment = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    for line in (REPOSITORY / "requirements" / "train.txt").read_text().splitlines():
        if line[:1].isalnum():
            link_package(Requirement(line.removesuffix("\\")), packages)
    program = environment / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", program, "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", wheel], check=True)
    return environment / "bin"


def link_package(pinned: Requirement, packages: Path) -> None:
    """Link the files of a package of this environment into another site-packages/."""
    if pinned.marker is not None and not pinned.marker.evaluate():
        return
    found = distribution(pinned.name)
    assert found.version in pinned.specifier, f"{pinned} is not installed: run `make setup-dev`"
    for file in found.files or ():
        if ".." in file.parts:  # a program in bin/
            continue
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(str(found.locate_file(file)), target)
        except FileNotFoundError:  # bytecode of a module that this Python cannot compile
            assert file.suffix == ".pyc", f"{file} is missing: run `make setup-dev`"
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copy2(str(found.locate_file(file)), target)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The folder in which everything runs."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.fixture
def env() -> dict[str, str]:
    """The environment variables without any that lead to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(
    installed: Path, folder: Path, env: dict[str, str], *argv: object
) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in the folder; it has to succeed."""
    command: list[str | Path] = [installed / str(argv[0]), *map(str, argv[1:])]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_the_demo_of_an_empty_folder_holds_the_same_bytes_as_that_of_the_checkout(
    installed: Path, empty: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    summary = json.loads(run(installed, empty, env, "tuneloop", "demo", "--json").stdout)
    assert [stage["state"] for stage in summary["stages"]] == ["done"] * 4
    assert summary["accuracy"]["tuned"] > 0.9
    assert [path.name for path in empty.iterdir()] == [".tuneloop"]
    record = json.loads((Path(summary["report"]).parent / "export" / "record.json").read_text())
    assert record["provenance"]["git_commit"] is None, "the checkout was found"
    assert_same_bytes(first_demo(tmp_path_factory)[1], summary)


def test_single_verbs_find_what_they_need(
    installed: Path, empty: Path, env: dict[str, str], tmp_path: Path
) -> None:
    tiny = make_tiny_run(tmp_path)
    tiny.change(eval__eval_set="eval/eval_v1.jsonl", eval__allow_unchecked=True)
    planned = run(installed, empty, env, "tuneloop", "plan", tiny.spec_path, "--json")
    plan = json.loads(planned.stdout)
    assert [stage["state"] for stage in plan["stages"]] == ["to run"] * 4
    export_alone(installed, empty, env, tiny, plan["run_id"])
    image = "registry.example/tuneloop@sha256:" + "1" * 64
    tiny.change(
        execution__cluster={"namespace": "n", "image": image},
        execution__datasets_url=tiny.artifacts,
        execution__artifacts="gs://bucket/artifacts",
    )
    run(installed, empty, env, "tuneloop", "render", tiny.spec_path, "-o", "rendered")
    rendered = sorted((empty / "rendered").rglob("*.yaml"))
    assert [path.name for path in rendered if path.parent.name == "rendered"] == [
        *("account.yaml", "submit.yaml")
    ]
    documents = [one for path in rendered for one in yaml.safe_load_all(path.read_text())]
    kinds = {document["kind"] for document in documents}
    assert {"ConfigMap", "Job"} <= kinds


def export_alone(
    installed: Path, empty: Path, env: dict[str, str], tiny: TinyRun, run_id: str
) -> None:
    """Run `python -m jobs export --spec ...` without a plan."""
    spec = tiny.folder / "export.json"
    code = (
        "import sys; from tuneloop.runs.planning.plan import load_plan;"
        "from tuneloop.runs.planning.spec_file import load_run_spec;"
        "from tuneloop.specs.stages import dump_stage_spec;"
        "plan = load_plan(load_run_spec(sys.argv[1]));"
        "open(sys.argv[2], 'wb').write(dump_stage_spec(plan.stages[0]))"
    )
    run(installed, empty, env, "python", "-c", code, tiny.spec_path, spec)
    run(installed, empty, env, "python", "-m", "jobs", "export", "--spec", spec)
    record = Path(tiny.artifacts, "training_runs", run_id, "export", "record.json")
    assert json.loads(record.read_text())["counts"]["examples"] == 104


@pytest.fixture
def served(installed: Path, empty: Path, env: dict[str, str]) -> Iterator[str]:
    """Run `tuneloop serve` on a free port; yields its URL."""
    process = subprocess.Popen(
        [installed / "tuneloop", "serve", "--port", "0", "--no-access-log"],
        cwd=empty,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    yield process.stderr.readline().partition(": ")[0]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_serve_migrates_a_new_database_and_shows_pages(served: str, empty: Path) -> None:
    def get(path: str) -> Any:
        with urllib.request.urlopen(f"{served}{path}", timeout=10) as reply:
            return reply.status, reply.read()

    assert get("/readyz")[0] == 200
    assert b"<title>" in get("/")[1]
    assert (empty / ".tuneloop" / "store.db").is_file()
