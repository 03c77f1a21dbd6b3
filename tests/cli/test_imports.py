"""What a verb imports: heavy packages are loaded by the verbs that need them, and by no other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.builders import TinyRun

HEAVY = {
    *("jax", "flax", "optax", "orbax", "tunix", "sentencepiece", "safetensors", "scipy"),
    *("sqlalchemy", "fastapi", "uvicorn", "alembic", "kubernetes", "duckdb", "pyarrow", "rensa"),
}

RUN = """
import sys
sys.argv = ["tuneloop", *sys.argv[1:]]
from tuneloop.cli import main
try:
    main()
except SystemExit as e:
    assert e.code == 0, e.code
print(*sorted(sys.modules), file=sys.stderr)
"""


def loaded(*arguments: str) -> set[str]:
    """Return the modules in the process of a verb when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


def test_help_loads_nothing_heavy() -> None:
    packages = loaded("--help")
    assert not packages & HEAVY
    assert not packages & {"fsspec", "httpx", "jinja2", "numpy", "rich.progress"}


@pytest.mark.parametrize("image", [None, "registry.example/tuneloop@sha256:" + "1" * 64])
def test_plan_loads_nothing_heavy(tiny_run: TinyRun, image: str | None) -> None:
    arguments = [str(tiny_run.spec_path)]
    if image is not None:
        tiny_run.change(
            execution__cluster={"namespace": "n"},
            execution__datasets_url=tiny_run.artifacts,
            execution__artifacts="memory://bucket/artifacts",
        )
        arguments += ["--image", image]
    modules = loaded("plan", *arguments)
    assert not modules & (HEAVY | {"httpx"})
    # Only a run on a cluster reads the table of accelerators.
    assert ("tuneloop.k8s.accelerators.table" in modules) == (image is not None)


HIDDEN = """
import json, os, sys, tempfile
hidden, verbs = json.loads(sys.argv[1])

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from tuneloop.cli import main
from tuneloop.runs import sequence  # once, before the forks
from tuneloop.runs.planning import prepare, spec_file  # once, before the forks

ended = []
for verb in verbs:
    with tempfile.TemporaryFile("w+") as err:
        if (child := os.fork()) == 0:
            os.dup2(err.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.argv = ["tuneloop", *verb]
            try:
                main()
            except SystemExit as e:
                os._exit(e.code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        err.seek(0)
        ended.append([code, err.read()])
print(json.dumps(ended))
"""


def without(hidden: set[str], verbs: Sequence[Sequence[object]]) -> list[tuple[int, str]]:
    """Run verbs without some packages, in forks of one process; returns exit codes and stderr."""
    asked = json.dumps([sorted(hidden), [[str(part) for part in verb] for verb in verbs]])
    command = [sys.executable, "-c", HIDDEN, asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [(code, said) for code, said in json.loads(done.stdout)]


KUBERNETES = {"kubernetes", "kubernetes_validate", "kubeflow_trainer_api", "urllib3"}


def test_a_missing_extra_is_one_sentence(tiny_run: TinyRun) -> None:
    image = "registry.example/tuneloop@sha256:" + "1" * 64
    tiny_run.change(
        execution__cluster={"namespace": "n", "image": image},
        execution__datasets_url=tiny_run.artifacts,
        execution__artifacts="memory://bucket/artifacts",
    )
    spec = tiny_run.spec_path
    rows: list[tuple[str, tuple[object, ...]]] = [
        ("k8s", ("check", spec, "--server")),
        ("k8s", ("submit", spec)),
        ("k8s", ("run", spec, "--backend", "cluster")),
        ("k8s", ("runs", "gc", "--namespace", "n", "--artifacts", tiny_run.artifacts)),
        ("train", ("models", "add", "tiny", "hf://org/tiny")),
        ("eval", ("eval-sets", "power", "--gain", "0.1")),
    ]
    hidden = KUBERNETES | {"huggingface_hub", "scipy"}
    for (extra, verb), (code, said) in zip(
        rows, without(hidden, [verb for _, verb in rows]), strict=True
    ):
        (sentence,) = [line for line in said.splitlines() if line.startswith("tuneloop: ")]
        assert code == 2, (verb, said)
        assert "Traceback" not in said
        assert f" is not installed; install the {extra} extra: `make setup" in sentence


def test_the_offline_check_needs_no_client(tiny_run: TinyRun) -> None:
    image = "registry.example/tuneloop@sha256:" + "1" * 64
    tiny_run.change(
        execution__cluster={"namespace": "n", "image": image},
        execution__datasets_url=tiny_run.artifacts,
        execution__artifacts="gs://bucket/artifacts",
    )
    spec = tiny_run.spec_path
    check, render = without(KUBERNETES, [("check", spec), ("render", spec, "-o", "-")])
    assert check[0] == 0, check[1]
    assert "warning: objects: not checked against the schemas of Kubernetes" in check[1]
    assert render[0] == 0, render[1]
