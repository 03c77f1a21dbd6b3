"""Accuracies in a delta report: of one model, and of two models on the same items."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tuneloop.settings.reading import DESCRIBE_FIELDS


class ReportPart(BaseModel):
    """Base class. Unknown keys are ignored, so older versions read newer files."""

    model_config = ConfigDict(
        frozen=True, defer_build=True, use_attribute_docstrings=DESCRIBE_FIELDS
    )


class Accuracy(ReportPart):
    """Correct answers over all answers; every other state counts as not correct."""

    correct: int
    wrong: int
    no_answer: int
    truncated: int = 0
    """Answers without an extracted answer that reached the token limit."""
    error: int = 0
    """Answers that could not be scored, and answers that are missing."""
    credit: float | None = None
    """Mean credit, 0 to 1, if answers can get a part of it or an item has several answers."""
    low: float
    """Lower end of the 95 % interval of the share: Wilson's, if credit is null."""
    high: float
    """Upper end of that interval."""

    @property
    def total(self) -> int:
        """Number of answers."""
        return self.correct + self.wrong + self.no_answer + self.truncated + self.error

    @property
    def share(self) -> float:
        """Mean credit: correct over total, if an answer is correct or not."""
        return self.correct / self.total if self.credit is None else self.credit

    def gain_to(self, other: Accuracy) -> float:
        """Accuracy of the other one less this one; from counts, so that 3 of 10 is exactly 0.3."""
        if self.credit is None and other.credit is None:
            return (other.correct - self.correct) / other.total
        return other.share - self.share


class Paired(ReportPart):
    """Items that the two models answered differently."""

    improved: int
    """Items for which the tuned model got more credit."""
    regressed: int
    """Items for which the base model got more credit."""
    p_value: float
    """Exact McNemar test: two-sided binomial test of improved against regressed at 1/2."""
    gain_low: float | None = None
    """Lower end of the 95 % interval of the gain, -1 to 1; null in reports of older versions."""
    gain_high: float | None = None
    """Upper end of that interval."""
    both: int | None = None
    """Items that both models answered correctly."""
    neither: int | None = None
    """Items that neither model answered correctly."""
    anytime: bool = False
    """Whether p-value and interval hold at any number of items, because the evaluation could stop
    early: they are of the betting test of Waudby-Smith and Ramdas (2024)."""


class Group(ReportPart):
    """Both models on one group of items."""

    name: str
    """Category of the items, or `all`."""
    base: Accuracy
    tuned: Accuracy
    paired: Paired
    adjusted_p: float | None = None
    """p-value after Holm's correction for all categories of the set; null for a group of fewer than
    10 items, and for a group that is no category."""

    @property
    def gain(self) -> float:
        """Accuracy won by tuning, -1 to 1."""
        return self.base.gain_to(self.tuned)


class BasePrompt(ReportPart):
    """The base model asked with one kind of prompt, compared with the tuned model."""

    examples: int
    """Training examples in the prompt, as earlier turns; the tuned model is asked with none."""
    base: Accuracy
    paired: Paired

    def gain(self, tuned: Accuracy) -> float:
        """Accuracy won by tuning, -1 to 1."""
        return self.base.gain_to(tuned)
