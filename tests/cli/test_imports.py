"""What a verb imports: heavy packages are loaded by the verbs that need them, and by no other."""

from __future__ import annotations

import subprocess
import sys

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
import sys
hidden = sys.argv.pop(1)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from tuneloop.cli import main
main()
"""


@pytest.mark.parametrize(
    ("module", "extra", "verb"),
    [
        ("huggingface_hub", "train", ("models", "add", "tiny", "hf://org/tiny")),
        ("scipy", "eval", ("eval-sets", "power", "--gain", "0.1")),
        ("kubernetes_validate", "k8s", ("check",)),
        ("urllib3", "k8s", ("check",)),
    ],
)
def test_a_missing_extra_is_one_sentence(
    module: str, extra: str, verb: tuple[str, ...], tiny_run: TinyRun
) -> None:
    if verb == ("check",):
        image = "registry.example/tuneloop@sha256:" + "1" * 64
        tiny_run.change(execution__cluster={"namespace": "n", "image": image})
        verb = ("check", str(tiny_run.spec_path))
    command = [sys.executable, "-c", HIDDEN, module, *verb]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"tuneloop: Python module {module} is not installed; install the {extra} extra:"
    )
    assert len(done.stderr.splitlines()) == 1
