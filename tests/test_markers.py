from __future__ import annotations

import subprocess
import sys

import pytest

from tests.builders import REPOSITORY
from tests.markers import FILES, FOLDERS, SLOW, markers_of_file

TESTS = REPOSITORY / "tests"


def test_what_the_tables_name_exists() -> None:
    assert [name for name in FOLDERS if not (TESTS / name).is_dir()] == []
    assert [name for name in FILES if not (TESTS / name).is_file()] == []
    assert {*FOLDERS.values(), *FILES.values()} <= SLOW


@pytest.mark.parametrize(
    ("file", "markers"),
    [
        ("training/step/test_loss.py", {"jax"}),
        ("training/export/test_exclusions.py", set()),
        ("storage/test_object_stores.py", {"server"}),
        ("cluster/test_base.py", {"cluster"}),
        ("docs/test_base.py", {"cluster"}),
        ("ci/test_lint.py", {"go"}),
        ("test_wheel.py", {"jax", "wheel"}),
        ("test_jsonl.py", set()),
    ],
)
def test_a_file_is_marked_by_what_it_imports_and_where_it_is(file: str, markers: set[str]) -> None:
    assert markers_of_file(TESTS / file, TESTS) == markers


@pytest.mark.slow
def test_one_file_of_tests_can_be_run_alone() -> None:
    """A coverage gate among pytest's own options would fail it."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/k8s/rendering/test_templates.py"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
