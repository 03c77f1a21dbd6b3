"""Which tests need JAX, a server, Go, a cluster or a browser, read from where they are.

A test is marked by its folder, by what its file imports and by the fixtures that it uses, so a new
test is marked without work. Every test with one of these markers is also `slow`: `make quick` runs
the others. In a run of fast tests the files that hold slow tests alone are not even imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

FOLDERS = {
    "browser": "browser",
    "ci": "go",
    "cluster": "cluster",
    "images": "images",
}
"""Folder of tests/ -> marker of every test in it."""

FILES = {
    # These run the train or eval stage, in this process or in one that they start.
    "demo/test_loop.py": "jax",
    "cli/test_models.py": "jax",
    "docs/test_laptop.py": "jax",
    "models/test_gguf.py": "jax",
    "models/test_lifecycle.py": "jax",
    "models/test_weights.py": "jax",
    "runs/rounds/test_real_stages.py": "jax",
    "runs/test_local.py": "jax",
    "stages/test_evaluate.py": "jax",
    "stages/test_shards.py": "jax",
    "stages/test_train_conversations.py": "jax",
    "test_kill.py": "jax",
    "test_planted_secrets.py": "jax",
    "test_wheel.py": "jax",
    # These start other processes, or run a stage many times.
    "bench/test_smoke.py": "slow",
    "cli/test_cli.py": "slow",
    "cli/test_imports.py": "slow",
    "stages/test_export.py": "slow",
    "stages/test_export_kill.py": "slow",
    "store/test_kill.py": "server",
    "test_provenance.py": "slow",
}
"""File of tests/ -> marker, where no import at the top of the file says it."""

IMPORTS = {
    "jax": (
        *("flax", "jax", "optax", "orbax", "qwix", "tunix"),
        "tests.chat_model",
        "tests.training.tiny",
        *(
            f"tuneloop.training.{room}"
            for room in ("compile", "generation", "models", "sft", "step")
        ),
    ),
    "server": ("tests.objectstore", "tests.postgres", "tests.registry"),
    "go": ("tests.ci.tools", "tests.gotools"),
    "cluster": ("tests.cluster",),
}
"""Marker -> packages; a file that imports one of them at its top has the marker."""

FIXTURES = {
    "app": "server",
    "database": "server",
    "http": "server",
    "new_database_url": "server",
    "postgres": "server",
    "store": "server",
    "store_url": "server",
    "stored": "jax",
    "undisturbed": "jax",
}
"""Fixture -> marker of every test that uses it."""

SLOW = frozenset({"browser", "cluster", "go", "images", "jax", "server", "slow", "wheel"})
"""Each of these makes a test slow."""


@cache
def markers_of_file(path: Path, root: Path) -> frozenset[str]:
    """Return the markers that every test of a file has."""
    place = path.relative_to(root)
    text = path.read_text("utf-8")
    imported = re.findall(r"^(?:from|import) ([\w.]+)", text, re.MULTILINE)
    found = {
        marker
        for marker, packages in IMPORTS.items()
        if any(f"{name}.".startswith(f"{package}.") for name in imported for package in packages)
    }
    found |= {FOLDERS[place.parts[0]]} if place.parts[0] in FOLDERS else set()
    found |= {FILES[place.as_posix()]} if place.as_posix() in FILES else set()
    found |= {name for name in SLOW if f"\npytestmark = pytest.mark.{name}\n" in text}
    return frozenset(found)


def markers_of_fixtures(names: Iterable[str]) -> set[str]:
    """Return the markers that a test has by its fixtures."""
    return {FIXTURES[name] for name in names if name in FIXTURES}
