"""Agreement between reviewers: Krippendorff's alpha of each pair, and of all together.

Krippendorff (2018), "Content Analysis", chapter 12, at the nominal level: two labels are equal or
different. Alpha takes any number of reviewers and needs no trace that all of them have labelled.
The library `krippendorff`, with which tests compare this formula, has the licence GPL-3.0, so it
cannot be part of what tuneloop installs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from tuneloop.store.db.labels import StoredLabel
from tuneloop.store.dependencies import Svc
from tuneloop.store.routes.labels import value_text
from tuneloop.store.routes.refusals import GUARDED, refusals
from tuneloop.traces.judgements import REVIEW, SKIP

COMPARED_LABELS = 50_000
"""Maximum number of labels, from the newest, that are compared."""
PAIRED_REVIEWERS = 12
"""Maximum number of reviewers who are compared in pairs: those with the most labels."""
IGNORED = value_text(SKIP)
"""Value, as JSON, that neither agrees nor disagrees with others."""

router = APIRouter(prefix="/api", responses=GUARDED)


class PairAgreement(BaseModel):
    """Agreement of two reviewers on the traces that both have labelled."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    first: str = Field(examples=["ada"])
    second: str = Field(examples=["bob"])
    traces: int = Field(examples=[10])
    """Traces that both have labelled."""
    same: int = Field(examples=[8])
    """Traces that both have given the same label."""
    alpha: float | None = Field(examples=[0.62])
    """Krippendorff's alpha: 1 is full agreement, and 0 is agreement by chance. Null if it is not
    defined, because there is only one value."""


class GroupAgreement(BaseModel):
    """Agreement of all reviewers on the traces that at least two of them have labelled."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    reviewers: int = Field(examples=[3])
    traces: int = Field(examples=[12])
    """Traces with labels of at least two reviewers."""
    alpha: float | None = Field(examples=[0.58])
    """Krippendorff's alpha, as for a pair."""


class Agreement(BaseModel):
    """Agreement between reviewers."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    pairs: list[PairAgreement]
    """Pairs of reviewers with a trace that both have labelled, the most traces first; only the
    12 reviewers with the most labels."""
    group: GroupAgreement | None
    """All reviewers together; null if no trace has labels of two reviewers."""
    is_cut: bool = Field(examples=[False])
    """Whether only the newest 50000 labels are compared."""


@router.get("/labels/agreement", responses=refusals(422, 503))
def read_agreement(
    service: Svc,
    name: Annotated[
        str, Query(description="Compare labels with this name.", examples=[REVIEW])
    ] = REVIEW,
) -> Agreement:
    """Compare the newest label of each trace and reviewer; skipped traces do not count."""
    return measure_agreement(service.database.labels.current(name, COMPARED_LABELS))


def measure_agreement(labels: Sequence[StoredLabel]) -> Agreement:
    """Compare the labels of reviewers.

    Args:
        labels: at most one label of each trace and reviewer, with the same name.
    """
    judged = [label for label in labels if label.value != IGNORED]
    by_trace: dict[str, dict[str, str]] = {}
    for label in judged:
        by_trace.setdefault(label.trace_id, {})[label.who] = label.value
    several = [by for by in by_trace.values() if len(by) > 1]
    often = Counter(label.who for label in judged).most_common(PAIRED_REVIEWERS)
    pairs = [
        found
        for first, second in itertools.combinations(sorted(who for who, _ in often), 2)
        if (found := _compare_pair(first, second, several)) is not None
    ]
    pairs.sort(key=lambda pair: (-pair.traces, pair.first, pair.second))
    group = None
    if several:
        reviewers = {who for by in several for who in by}
        alpha = _alpha([tuple(by.values()) for by in several])
        group = GroupAgreement(reviewers=len(reviewers), traces=len(several), alpha=alpha)
    return Agreement(pairs=pairs, group=group, is_cut=len(labels) == COMPARED_LABELS)


def _compare_pair(
    first: str, second: str, several: Sequence[Mapping[str, str]]
) -> PairAgreement | None:
    both = [(by[first], by[second]) for by in several if first in by and second in by]
    if not both:
        return None
    same = sum(one == other for one, other in both)
    return PairAgreement(
        first=first, second=second, traces=len(both), same=same, alpha=_alpha(both)
    )


def _alpha(traces: Sequence[Sequence[str]]) -> float | None:
    """Return the alpha of the labels of each trace, which are at least two.

    Alpha is 1 - observed / expected disagreement. The observed one is that of pairs of labels of
    one trace, and the expected one that of pairs of all labels. A pair of a trace with m labels has
    the weight 1 / (m - 1), so that each label counts once.
    """
    of_value = Counter(value for labels in traces for value in labels)
    total = of_value.total()
    expected = _unequal_pairs(of_value) / (total - 1) if total > 1 else 0.0
    observed = sum(_unequal_pairs(Counter(labels)) / (len(labels) - 1) for labels in traces)
    return 1 - observed / expected if expected else None


def _unequal_pairs(counts: Counter[str]) -> int:
    """Return how many ordered pairs of labels have different values."""
    return counts.total() ** 2 - sum(count**2 for count in counts.values())
