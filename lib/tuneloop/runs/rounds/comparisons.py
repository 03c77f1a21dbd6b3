"""What the arms of the rounds say: the worth of selection, of training longer, and the losses.

A pure function of scores. The unit is a seed: its difference is the mean over its rounds. All
statements hold together with 95 % confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tuneloop.evaluation.statistics.dtypes import Floats
from tuneloop.evaluation.statistics.paired import Verdict
from tuneloop.evaluation.statistics.replicates import ReplicatedComparison, compare_replicates
from tuneloop.runs.rounds.scores import REQUIRED, Cell, Scores

BASE = "base"
"""The base model of each round, in place of an arm."""


@dataclass(frozen=True)
class Question:
    """A question that two arms answer together."""

    key: str
    """Key in report.json."""
    arm: str
    other: str
    """Arm that it is compared with; `base` for the base model of each round."""
    title: str
    better: str
    """Sentence part if the arm is better."""
    worse: str
    same: str
    is_from_first: bool = False
    """Whether only rounds count that start from the first base model. Later base models were
    trained on selected samples: more steps on the seed data then undo that, which is no answer to
    what training longer is worth."""


QUESTIONS = (
    Question(
        "selection",
        "selected",
        "random",
        "What the selection was worth",
        "the selected samples train a better model than as many random ones",
        "the selected samples train a worse model than as many random ones",
        "between the arms selected and random",
    ),
    Question(
        "plain_sft",
        "selected",
        "sft",
        "What a round was worth beside plain SFT",
        "the selected samples train a better model than the seed data for as many steps",
        "the selected samples train a worse model than the seed data for as many steps",
        "between the arms selected and sft",
    ),
    Question(
        "longer",
        "sft",
        BASE,
        "What training longer alone was worth",
        "more steps on the seed data improve the first base model",
        "more steps on the seed data make the first base model worse",
        "between the arm sft and the first base model",
        is_from_first=True,
    ),
)


@dataclass(frozen=True)
class Answer:
    """The answer to a question on one set."""

    key: str
    title: str
    set: str
    arm: str
    other: str
    comparison: ReplicatedComparison | None
    """None if there are no rounds that have both arms."""
    by_round: Mapping[int, float]
    """Number of the round -> mean difference over the seeds."""
    sentence: str

    @property
    def verdict(self) -> Verdict | None:
        """`improved`: the arm is better; None without a comparison."""
        return self.comparison.verdict if self.comparison else None

    def as_json(self) -> dict[str, Any]:
        """Return the answer for report.json."""
        found = asdict(self.comparison) if self.comparison else None
        by_round = {str(number): gain for number, gain in self.by_round.items()}
        value = {**asdict(self), "comparison": found, "by_round": by_round}
        return {**value, "verdict": self.verdict}


def answer_questions(scores: Scores, arms: Sequence[str]) -> list[Answer]:
    """Answer all questions about the required sets, then what was forgotten on guarded ones.

    Args:
        scores: scores of the evaluated runs.
        arms: arms of the rounds.
    """
    guarded = sorted({n for found in scores.values() for n in found.tuned if n != REQUIRED})
    questions = [(each, REQUIRED) for each in QUESTIONS]
    questions += [(_forgotten(name), name) for name in guarded]
    return [_answer(each, name, scores, arms, len(questions)) for each, name in questions]


def _forgotten(name: str) -> Question:
    return Question(
        "forgotten",
        "selected",
        BASE,
        f"What was forgotten on the {name}",
        f"the arm selected is better than the base model of the round on the {name}",
        f"the arm selected has forgotten answers of the {name} that the base model of the round"
        " gives",
        f"between the arm selected and the base model of the round on the {name}",
    )


def _unknown(question: Question, arms: Sequence[str]) -> str:
    """Say why a question has no answer."""
    pair = [each for each in (question.arm, question.other) if each != BASE]
    missing = [each for each in pair if each not in arms]
    what = "both arms" if len(pair) > 1 else f"the arm {question.arm}"
    why = f"the rounds have no arm {missing[0]}" if missing else f"no round has {what} evaluated"
    return f"{question.title} is not known: {why}."


def _answer(
    question: Question, name: str, scores: Scores, arms: Sequence[str], statements: int
) -> Answer:
    found = _differences(question, name, scores)
    by_round: dict[int, list[float]] = {}
    for (_, number), (other, arm) in found.items():
        by_round.setdefault(number, []).append(float((arm - other).mean()))
    comparison = None
    if found:
        seeds = sorted({seed for seed, _ in found})
        pairs = [[pair for (s, _), pair in found.items() if s == seed] for seed in seeds]
        other, arm = (
            np.stack([np.mean([pair[side] for pair in of_seed], axis=0) for of_seed in pairs])
            for side in (0, 1)
        )
        groups = next(iter(scores.values())).groups[name]
        comparison = compare_replicates(other, arm, groups, statements=statements)
    return Answer(
        question.key,
        question.title,
        name,
        question.arm,
        question.other,
        comparison,
        {number: float(np.mean(each)) for number, each in sorted(by_round.items())},
        _sentence(question, comparison) if comparison else _unknown(question, arms),
    )


def _differences(
    question: Question, name: str, scores: Scores
) -> dict[tuple[int, int], tuple[Floats, Floats]]:
    """Return (seed, round) -> (scores of the other, scores of the arm), where both are known."""
    found = {}
    for cell, of_arm in scores.items():
        if cell.role != question.arm or (question.is_from_first and not of_arm.is_from_first):
            continue
        of_other = scores.get(Cell(cell.seed, cell.round, question.other))
        if question.other == BASE:
            found[cell.seed, cell.round] = (of_arm.base[name], of_arm.tuned[name])
        elif of_other is not None:
            found[cell.seed, cell.round] = (of_other.tuned[name], of_arm.tuned[name])
    return found


def points(share: float) -> str:
    """Return a difference in points with its sign.

    A small difference gets more digits, so that an end of an interval that excludes 0 is not
    printed as 0.
    """
    value = 100 * share
    return next((t for t in (f"{value:+.1f}", f"{value:+.3f}") if float(t)), "+0.0")


def _sentence(question: Question, found: ReplicatedComparison) -> str:
    gain = f"{points(found.gain)} points a round"
    count = f"{found.seeds} seeds" if found.seeds > 1 else "1 seed"
    ends = f"{points(found.low)} to {points(found.high)}"
    interval = f"(simultaneous 95 % interval {ends}, {count})"
    if found.verdict == "no detectable difference":
        return f"{question.title}: no detectable difference {question.same}, {gain} {interval}."
    words = question.better if found.verdict == "improved" else question.worse
    return f"{question.title}: {gain} {interval}; {words}."
