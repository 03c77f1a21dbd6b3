"""The train stage as a process group on loopback; only these fixtures import JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import TinyRun, tiny_run_in
from tests.once import made_once

if TYPE_CHECKING:
    from tests.training.sft.groups import Training
    from tuneloop.runs.planning.plan import Plan


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, Plan]:
    """A run whose train stage one process has finished on one device."""
    from tests.training.sft.groups import make_alone

    run = tiny_run_in(made_once(tmp_path_factory, "alone", make_alone))
    return run, run.plan()


@pytest.fixture
def training(alone: tuple[TinyRun, Plan], tmp_path: Path) -> Iterator[Callable[..., Training]]:
    """A function that prepares the same stage for a process group, with other options."""
    from tests.training.sft.groups import Training

    made: list[Training] = []

    def make(**options: Any) -> Training:
        made.append(Training(alone, tmp_path / f"group-{len(made)}", **options))
        return made[-1]

    yield make
    for each in made:
        for process in each.processes:
            process.kill()
            process.communicate()
