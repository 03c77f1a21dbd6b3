"""Test the median rule and the reader of loss curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tuneloop import jsonl
from tuneloop.runs.sweep.curves import Curve, hopeless, parse_curve, read_curve
from tuneloop.specs.sweep import MedianStop

RULE = MedianStop(min_members=3, min_steps=2)


def curve(*losses: float) -> Curve:
    """Return a curve with a validation after every step, from step 0."""
    return Curve({}, dict(enumerate(losses)))


GOOD = [curve(9, 5, 4, 3, 2), curve(9, 6, 5, 4, 3), curve(9, 7, 6, 5, 4)]


@pytest.mark.parametrize(
    ("own", "others", "stops"),
    [
        (curve(9, 8, 8), GOOD, True),
        (curve(9, 8, 5.5), GOOD, True),
        (curve(9, 8, 5), GOOD, False),  # equal to the median of 4, 5 and 6
        (curve(9, 3, 8), GOOD, False),  # its best loss so far counts, not its last one
        (curve(9, 8), GOOD, False),  # before min_steps
        (curve(9), GOOD, False),
        (curve(), GOOD, False),
        (curve(9, 8, 8), GOOD[:2], False),  # too few others
        (curve(9, 8, 8), [*GOOD[:2], curve(9, 1)], False),  # the third has not reached the step
        (curve(9, 8, 8), [curve(9, 1)] * 3, False),  # nobody else is as far
        (curve(0, 8, 8), GOOD, True),  # the loss before training does not count
        (curve(9, math.inf, math.inf), GOOD, True),
        (Curve({1: 3.0, 2: 2.0}), GOOD, False),  # no validation at all
    ],
)
def test_the_median_rule(own: Curve, others: list[Curve], stops: bool) -> None:
    cause = hopeless(RULE, own, others)
    assert bool(cause) == stops
    if stops:
        assert "after step 2 is above 5, the median of 3 other members" in cause


def test_a_member_is_judged_at_the_newest_step_that_enough_others_have_reached() -> None:
    """Several validations can lie between two looks at the losses."""
    cause = hopeless(RULE, curve(9, 8, 8, 8, 8, 8, 8), GOOD)
    assert cause == "validation loss 8 after step 4 is above 3, the median of 3 other members"
    assert hopeless(RULE, curve(9, 8, 8, 8, 3, 9, 9), GOOD) == ""


def test_curves_are_read_from_unfinished_runs(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 0, "validation_loss": 5.0},
        {"step": 1, "loss": 4.0, "validation_loss": None},
        {"step": 2, "loss": 3, "validation_loss": 3.5},
    ]
    data = b"".join(jsonl.dump_line(row) for row in rows)
    found = parse_curve(data)
    assert found == Curve({1: 4.0, 2: 3.0}, {0: 5.0, 2: 3.5})
    assert (found.steps, found.best_until(1), found.best_until(2)) == (2, None, 3.5)
    assert parse_curve(b"") == Curve()
    file = tmp_path / "training_runs" / "tiny-0a1b2c3d" / "train" / "resume" / "metrics.jsonl"
    assert read_curve(str(tmp_path), "tiny-0a1b2c3d") == Curve()
    file.parent.mkdir(parents=True)
    for broken in (data + b'{"step":3,"lo', data + b"[]\n", b"\xff\n"):
        file.write_bytes(broken)
        assert read_curve(str(tmp_path), "tiny-0a1b2c3d") == Curve(), "the others go on"
    file.write_bytes(data)
    assert read_curve(str(tmp_path), "tiny-0a1b2c3d") == found
    assert Curve().steps == 0
