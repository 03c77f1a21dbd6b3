"""A finished run for the tests of web pages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.builders import letter_trace, publish_dataset
from tests.finished_run import publish_run


@pytest.fixture(scope="session")
def finished_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of a finished run with a dataset of 104 traces; tests use copies."""
    folder = tmp_path_factory.mktemp("finished") / "artifacts"
    key = publish_dataset(str(folder), [letter_trace(number) for number in range(104)])
    publish_run(str(folder), key)
    return folder


@pytest.fixture
def run_id(artifacts: Path, finished_artifacts: Path) -> str:
    """A finished run in the store's folder."""
    shutil.copytree(finished_artifacts, artifacts, dirs_exist_ok=True)
    return "letters-7c1aa298"
