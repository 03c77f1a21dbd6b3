"""Test what the report says about arms whose true difference is planted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tuneloop.runs.rounds.comparisons import Answer, answer_questions, points
from tuneloop.runs.rounds.scores import REQUIRED, Cell, RunScores, Scores
from tuneloop.runs.rounds.spec import ARMS

GUARD = "guarded set facts"
NO_DIFFERENCE = "no detectable difference"


def simulate(
    rng: np.random.Generator,
    skill: dict[str, float],
    *,
    seeds: int = 5,
    rounds: int = 2,
    items: int = 160,
    arms: Sequence[str] = ARMS,
    guard: dict[str, float] | None = None,
) -> Scores:
    """Simulate evaluations of trained arms.

    Questions differ in difficulty, the base models of the chains differ, and so does each training.

    Args:
        rng: random numbers.
        skill: arm or `base` -> its skill on the scale of log-odds.
        seeds: number of seeds.
        rounds: number of rounds.
        items: number of questions.
        arms: arms to simulate.
        guard: the same as `skill` for a guarded set; None for no such set.
    """
    sets = {REQUIRED: skill} | ({GUARD: guard} if guard else {})
    difficulty = {name: rng.normal(0, 1, items) for name in sets}
    found = {}
    for seed in range(seeds):
        for number in range(1, rounds + 1):
            start = rng.normal(0, 0.5)

            def answers(name: str, arm: str, start: float = start) -> np.ndarray:
                trained = start + sets[name].get(arm, 0) + rng.normal(0, 0.4)
                share = 1 / (1 + np.exp(difficulty[name] - trained))
                return (rng.random(items) < share).astype(np.float64)

            base = {name: answers(name, "base") for name in sets}
            for arm in arms:
                tuned = {name: answers(name, arm) for name in sets}
                groups = {name: np.arange(items) for name in sets}
                found[Cell(seed, number, arm)] = RunScores(base, tuned, groups)
    return found


def by_key(answers: Sequence[Answer]) -> dict[str, Answer]:
    return {answer.key: answer for answer in answers}


def test_equal_arms_are_said_not_to_differ_in_at_least_95_of_100_runs() -> None:
    """A verifier that accepts at random selects as the random control does."""
    rng = np.random.default_rng(20_261_128)
    said = dict.fromkeys(("selection", "plain_sft", "longer"), 0)
    for _ in range(100):
        for key, answer in by_key(answer_questions(simulate(rng, {}), ARMS)).items():
            assert (answer.verdict == NO_DIFFERENCE) == (NO_DIFFERENCE in answer.sentence)
            said[key] += NO_DIFFERENCE in answer.sentence
    assert min(said.values()) >= 95, said


def test_planted_differences_are_found_and_named() -> None:
    rng = np.random.default_rng(1)
    scores = simulate(rng, {"selected": 3.0, "sft": 1.0}, guard={"selected": -2.0})
    found = by_key(answer_questions(scores, ARMS))
    assert found["selection"].verdict == "improved"
    assert "as many random ones" in found["selection"].sentence
    assert found["plain_sft"].verdict == "improved"
    assert found["longer"].verdict == "improved"
    assert found["forgotten"].verdict == "regressed"
    assert "has forgotten answers of the guarded set facts" in found["forgotten"].sentence
    assert list(found["selection"].by_round) == [1, 2]
    comparison = found["selection"].comparison
    assert comparison is not None
    assert (comparison.seeds, comparison.items) == (5, 160)
    assert json.loads(json.dumps(found["selection"].as_json()))["verdict"] == "improved"


def test_going_back_to_the_seed_data_is_not_training_longer() -> None:
    """After a round that passed, `sft` starts from a model that selected samples have improved."""
    scores = {
        cell: replace(found, is_from_first=cell.round == 1)
        for cell, found in simulate(np.random.default_rng(5), {"selected": 3.0}).items()
    }
    for cell in [cell for cell in scores if (cell.round, cell.role) == (2, "sft")]:
        scores[cell] = replace(scores[cell], tuned={REQUIRED: np.zeros(160)})
    found = by_key(answer_questions(scores, ARMS))
    assert list(found["longer"].by_round) == [1]
    assert found["longer"].verdict == NO_DIFFERENCE
    assert "the arm sft and the first base model" in found["longer"].sentence
    assert list(found["plain_sft"].by_round) == [1, 2]


def test_a_selection_that_harms_is_said_to_harm() -> None:
    scores = simulate(np.random.default_rng(2), {"selected": -2.5})
    found = by_key(answer_questions(scores, ARMS))["selection"]
    assert found.verdict == "regressed"
    assert "train a worse model" in found.sentence


@pytest.mark.parametrize(
    ("arms", "missing"), [(("selected", "sft"), "selection"), (("selected", "random"), "plain_sft")]
)
def test_a_missing_control_is_said(arms: tuple[str, ...], missing: str) -> None:
    scores = simulate(np.random.default_rng(3), {}, arms=arms)
    found = by_key(answer_questions(scores, arms))
    assert found[missing].comparison is None
    assert "the rounds have no arm" in found[missing].sentence


def test_before_any_evaluation_nothing_is_known() -> None:
    found = answer_questions({}, ARMS)
    assert [answer.verdict for answer in found] == [None, None, None]
    said = [answer.sentence.partition("is not known: ")[2] for answer in found]
    arms = "no round has both arms evaluated."
    assert said == [arms, arms, "no round has the arm sft evaluated."]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.175, "+17.5"),
        (-1.0, "-100.0"),
        (0.0, "+0.0"),
        (-1e-17, "+0.0"),
        (0.0004, "+0.040"),
        (-0.0004, "-0.040"),
    ],
)
def test_an_end_of_an_interval_that_excludes_0_is_not_printed_as_0(share: float, text: str) -> None:
    assert points(share) == text


def test_rounds_that_are_missing_for_a_seed_do_not_stop_the_comparison() -> None:
    scores = dict(simulate(np.random.default_rng(4), {"selected": 2.0}))
    del scores[Cell(4, 2, "random")]
    found = by_key(answer_questions(scores, ARMS))["selection"]
    assert found.comparison is not None
    assert (found.comparison.seeds, found.verdict) == (5, "improved")
