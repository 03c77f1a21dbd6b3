"""Training with several processes or devices: same losses, errors and signals as with one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import TINY_MODEL, TinyRun, steps_done, xla_flags
from tests.cluster.controlplane import wait_until
from tests.training.sft.groups import Training, metrics, weights
from tuneloop.artifacts import records
from tuneloop.runs.planning.plan import Plan
from tuneloop.specs.training.mesh import MeshSpec
from tuneloop.specs.training.model import RandomModelSpec


def assert_same_training(alone: tuple[TinyRun, Plan], found: Training) -> None:
    run, plan = alone
    one, other = records.find(run.artifacts, plan.run_id, "train"), found.record()
    assert one is not None
    assert other is not None, found.logs()
    losses = [
        [row.get(name) or 0 for row in metrics(a, r) for name in ("loss", "validation_loss")]
        for a, r in ((run.artifacts, one), (found.artifacts, other))
    ]
    assert len(losses[0]) == 2 * 13  # 12 steps, and the validation before them
    assert sum(loss > 0 for loss in losses[0]) == 12 + 4
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    base = "base/model.safetensors"
    assert one.output(base).sha256 == other.output(base).sha256
    tuned = "model/model.safetensors"
    expected, got = weights(run.artifacts, one, tuned), weights(found.artifacts, other, tuned)
    assert expected.keys() == got.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, atol=2e-3, err_msg=name)


def test_two_processes_train_as_one_does(
    alone: tuple[TinyRun, Plan], training: Callable[..., Training]
) -> None:
    group = training()
    group.start(2)
    assert group.end() == [0, 0], group.logs()
    assert_same_training(alone, group)
    assert len(list((group.prefix / "attempts").iterdir())) == 1  # Only one process wrote.
    token_files = [Path(each) / "tokens" for each in (alone[0].artifacts, group.artifacts)]
    assert len({tuple(sorted(os.listdir(each))) for each in token_files}) == 1
    group.start(2)  # This is a restart after the record exists.
    assert group.end(30) == [0, 0]


def test_an_example_over_the_limit_ends_both_processes(training: Callable[..., Training]) -> None:
    """The first process finds it, while the other one waits for the token file."""
    group = training(max_length_tokens=8)
    group.start(2)
    codes = group.end()
    assert codes[0] == 65
    assert codes[1] != 0
    assert "expected at most 8; raise train.max_length_tokens" in group.logs()


def test_a_process_with_two_devices_uses_both_for_each_part_of_a_batch(
    alone: tuple[TinyRun, Plan], training: Callable[..., Training]
) -> None:
    pair = training(accumulation_steps=2)
    pair.start(1, XLA_FLAGS=xla_flags(devices=2))
    assert pair.end() == [0], pair.logs()
    assert_same_training(alone, pair)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 7}, "7 rows do not divide evenly among 2 devices; choose a multiple of 2"),
        (
            {"mesh": MeshSpec(tp=2), "model": RandomModelSpec(**{**TINY_MODEL, "hidden_dim": 33})},
            "train.mesh.tp: 2 does not divide the model, which has 33 as the width of its feed-",
        ),
    ],
)
def test_what_does_not_divide_is_refused(
    options: dict[str, Any], message: str, training: Callable[..., Training]
) -> None:
    odd = training(**options)
    odd.start(1, XLA_FLAGS=xla_flags(devices=2))
    assert odd.end() == [78]
    assert message in odd.logs()


def test_processes_with_different_specs_end_before_they_train(
    training: Callable[..., Training],
) -> None:
    group = training()
    other = group.folder / "other.json"
    other.write_text(json.dumps({**json.loads(group.spec.read_bytes()), "seed": 2}))
    group.start(2, other_spec=other)
    codes = group.end()
    assert 65 in codes
    assert set(codes) <= {65, -signal.SIGABRT}, group.logs()  # JAX ends the peers of one that ends
    assert "training: the stage spec differs between the processes (digests of process 0: " in (
        group.logs()
    )
    assert not (group.prefix / "resume").exists()


def test_asked_to_stop_all_stop_at_one_step_and_go_on_from_there(
    alone: tuple[TinyRun, Plan], training: Callable[..., Training]
) -> None:
    """Only the second process gets the signal."""
    group = training(steps=3000)
    processes = group.start(2)
    wait_until(lambda: steps_done(group.prefix), "it trains", 180)
    processes[1].send_signal(signal.SIGTERM)
    assert group.end() == [75, 75], group.logs()
    assert "saved; run again to continue" in group.logs()
    saved = [int(p.name) for p in (group.prefix / "resume" / "checkpoints").iterdir()]
    assert max(saved) > 0
    assert group.record() is None
