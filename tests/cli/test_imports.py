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
