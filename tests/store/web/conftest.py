"""A finished run for the tests of web pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import letter_trace, publish_dataset
from tests.finished_run import publish_run


@pytest.fixture
def run_id(artifacts: Path) -> str:
    """A finished run with a dataset of 104 traces."""
    key = publish_dataset(str(artifacts), [letter_trace(number) for number in range(104)])
    publish_run(str(artifacts), key)
    return "letters-7c1aa298"
