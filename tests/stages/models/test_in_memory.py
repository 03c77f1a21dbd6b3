"""Which models stay in memory between the chunks of an evaluation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import TINY_MODEL
from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.model import RandomModelSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.stages.models import in_memory
from tuneloop.stages.models.in_memory import Devices, choose_models_that_stay, models_that_stay
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.sizing.evaluation import batch_bytes, eval_host_bytes, weight_bytes


def architecture_of(pieces: int = 300) -> Architecture:
    return random_architecture(RandomModelSpec(**TINY_MODEL), pieces)


MODEL = architecture_of()
WEIGHTS = weight_bytes(MODEL)
BATCH = batch_bytes(MODEL, 8, 150, 20)


@pytest.mark.parametrize(
    ("models", "copies", "stays"),
    [
        (0.9, 1, set()),
        (1, 1, set()),  # one takes turns with the other
        (2, 1, {"base", "tuned"}),
        (2, 2, set()),
        (3, 2, {"base", "tuned"}),
    ],
)
def test_models_stay_that_fit_beside_the_one_in_use(
    models: float, copies: int, stays: set[str]
) -> None:
    pair = {"base": MODEL, "tuned": MODEL}
    assert models_that_stay(pair, models * WEIGHTS, copies) == stays


def test_the_first_models_stay_if_not_all_fit() -> None:
    three = {"base": MODEL, "step-2": MODEL, "tuned": MODEL}
    assert models_that_stay(three, 2 * WEIGHTS, 1) == {"base"}
    assert models_that_stay({**three, "base": architecture_of(3000)}, 2 * WEIGHTS, 1) == set()


@given(
    st.lists(st.integers(300, 3000), min_size=1, max_size=5),
    st.integers(1, 2),
    st.floats(0, 20),
)
def test_no_moment_needs_more_than_there_is(pieces: list[int], copies: int, room: float) -> None:
    models = {str(number): architecture_of(each) for number, each in enumerate(pieces)}
    weights = {name: weight_bytes(each) for name, each in models.items()}
    stays = models_that_stay(models, room * WEIGHTS, copies)
    for used in models if stays else ():
        others = sum(weights[name] for name in stays if name != used)
        assert copies * weights[used] + others <= room * WEIGHTS


@pytest.mark.parametrize(("short", "stays"), [(0, {"base", "tuned"}), (1, set())])
def test_the_memory_of_devices_and_of_the_host_holds_a_batch_too(
    monkeypatch: pytest.MonkeyPatch, short: int, stays: set[str]
) -> None:
    pair = {"base": MODEL, "tuned": MODEL}
    for copies, count in ((2, 1), (3, 4)):
        limit = -(-(copies * WEIGHTS + BATCH) * 10 // 8) - 2 * short
        assert choose_models_that_stay(pair, Devices(limit, count), 8, 100, 20) == stays
    # As much as a pod of such a stage asks for.
    options = EvalSpec(eval_set="a.jsonl", stop_early=True, batch_size=8, max_new_tokens=20)
    train = TrainSpec(steps=1, batch_size=4, max_length_tokens=150)
    planned = eval_host_bytes(options, train, MODEL, has_chip=False)
    monkeypatch.setattr(in_memory, "host_limit_bytes", lambda: planned - short)
    assert choose_models_that_stay(pair, Devices(None, 1), 8, 100, 20) == stays


def test_the_limit_of_the_host_is_that_of_its_container_or_most_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = tmp_path / "memory.max", tmp_path / "absent"
    monkeypatch.setattr(in_memory, "CGROUP_LIMITS", tuple(map(str, limits)))
    for text, expected in (("max\n", 0.8 * machine), ("1048576\n", 1 << 20)):
        limits[0].write_text(text)
        assert in_memory.host_limit_bytes() == expected
