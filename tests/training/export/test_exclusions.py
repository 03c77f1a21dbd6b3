from __future__ import annotations

from typing import Any

import pytest

from tuneloop.errors import DataError
from tuneloop.training.export.exclusions import balance

WHOLE: dict[str, Any] = {
    "outcomes": {"train": 7, "validation": 2, "duplicate": 1},
    "written": {"train": 7, "validation": 2, "excluded": 1},
    "traces": {"manifest": 10, "read": 10},
    "place": "dataset d-v1",
}


def test_what_goes_in_comes_out() -> None:
    counts = balance(**WHOLE)
    assert (counts["examples"], counts["validation_examples"], counts["excluded"]) == (7, 2, 1)
    assert (counts["excluded_duplicate"], counts["excluded_over_length"]) == (1, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"outcomes": {**WHOLE["outcomes"], "duplicate": 2}},
        {"outcomes": {**WHOLE["outcomes"], "lost": 1}},
        {"written": {**WHOLE["written"], "train": 6}},
        {"written": {**WHOLE["written"], "excluded": 0}},
        {"traces": {"manifest": 11, "read": 10}},
        {"traces": {"manifest": 11, "read": 11}},
    ],
)
def test_a_trace_that_is_lost_or_counted_twice_is_found(wrong: dict[str, Any]) -> None:
    if "lost" in wrong.get("outcomes", {}):  # An unknown reason cannot hide a trace.
        wrong["traces"] = {"manifest": 11, "read": 11}
    with pytest.raises(DataError, match=r"^dataset d-v1: found .* run it again$"):
        balance(**{**WHOLE, **wrong})


def test_nothing_to_train_on_is_an_error() -> None:
    outcomes, written = {"filtered": 10}, {"train": 0, "validation": 0, "excluded": 10}
    with pytest.raises(DataError, match="found no example to train on among 10 traces"):
        balance(**{**WHOLE, "outcomes": outcomes, "written": written})
