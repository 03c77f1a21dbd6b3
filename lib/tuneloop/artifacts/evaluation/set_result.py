"""The part of a delta report that is about one eval set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuneloop.artifacts.evaluation.accuracy import Accuracy, Group, Paired, ReportPart
from tuneloop.artifacts.evaluation.eval_samples import Weight

Verdict = Literal["improved", "regressed", "no detectable difference"]


class ModelResult(ReportPart):
    """One model on one set."""

    model: str
    strict: Accuracy
    """The answer is read from where the prompt asks for it."""
    lenient: Accuracy
    """The answer is searched in the whole text."""
    hit_limit: int
    """Answers that reached the token limit."""
    empty: int
    """Answers without visible text."""
    missing: int
    """Expected answers that the file of samples does not have; they count as errors."""
    mean_tokens: float
    """Mean length of an answer, tokens."""
    max_tokens: int
    """Longest answer, tokens."""
    tokens: tuple[tuple[int, int], ...] = ()
    """Histogram of lengths: (first length of a bin, answers), bins of equal width."""
    pass_at: dict[int, float] = Field(default={})
    """k -> estimated share of items with a correct answer among k samples; with several samples."""


class Comparison(ReportPart):
    """A model compared with the tuned model on one set."""

    model: str
    paired: Paired
    gain: float
    """Accuracy of the tuned model minus accuracy of this model."""


class StoppingResult(ReportPart):
    """How the evaluation of a set that could stop early ended."""

    total: int
    """Items of the set."""
    not_asked: int
    """Items that were not asked, because the result was decided; they count in no figure."""
    decision: Literal["improved", "regressed", "undecided"]
    decided_after: int | None = None
    """Items, in random order, after which the decision was known; null while undecided."""
    candidate: int
    """Number of the candidate of `tuneloop gate` for which the evidence had to be enough."""
    error: float
    """Probability of a wrong decision that this candidate is allowed."""


class SetResult(ReportPart):
    """All models on one eval set."""

    name: str
    sha256: str
    """Digest of the set's file."""
    version: str | None = None
    weight: Weight
    scorer: str
    """Kind of the scorer of items that name none."""
    samples: int = 1
    """Samples for each item and model."""
    items: int
    """Items that were asked."""
    verdict: Verdict
    overall: Group
    """The fair base model and the tuned model on all items."""
    base: str
    """Name of that base model."""
    categories: tuple[Group, ...]
    models: tuple[ModelResult, ...]
    comparisons: tuple[Comparison, ...] = ()
    """The other models that were asked this set."""
    detectable: float | None = None
    """Smallest gain that a set of this size finds in four of five cases, 0 to 1; null if the
    evaluation could stop early."""
    stopping: StoppingResult | None = None
    """Null: all items were asked, whatever the answers were."""
