"""A few random inputs of each kind; `python -m tests.inputs.trials` runs many more."""

from __future__ import annotations

from tests.inputs import trials


def test_random_inputs_succeed_or_are_refused_in_a_sentence() -> None:
    tally = trials.run(seconds=60, seed=3, count=16)
    assert not tally.failures
    kinds = {outcome.partition(":")[0] for outcome in tally.outcomes}
    assert len(kinds) == 8
    assert sum(tally.outcomes.values()) == 16
