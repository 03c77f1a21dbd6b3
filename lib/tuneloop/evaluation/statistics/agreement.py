"""Agreement between reviewers: Cohen's kappa of each pair, Fleiss' kappa of all together.

Cohen (1960), "A coefficient of agreement for nominal scales"; Fleiss (1971), "Measuring nominal
scale agreement among many raters". Both are statsmodels' functions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tuneloop.errors import Unavailable
from tuneloop.traces.judgements import Agreement, GroupAgreement, PairAgreement


def measure_agreement(labels: Mapping[str, Mapping[str, str]]) -> Agreement:
    """Compare the labels of reviewers.

    Args:
        labels: trace -> reviewer -> label. Traces with one reviewer are ignored.

    Raises:
        Unavailable: statsmodels is not installed.
    """
    inter_rater = _library()
    values = sorted({label for by in labels.values() for label in by.values()})
    reviewers = sorted({who for by in labels.values() for who in by})
    pairs = []
    for first, second in itertools.combinations(reviewers, 2):
        both = [(by[first], by[second]) for by in labels.values() if first in by and second in by]
        if both:
            pairs.append(_pair(first, second, both, values, inter_rater))
    pairs.sort(key=lambda pair: (-pair.traces, pair.first, pair.second))
    return Agreement(tuple(pairs), _group(labels, reviewers, values, inter_rater))


def _library() -> Any:
    try:
        from statsmodels.stats import inter_rater
    except ImportError as e:
        raise Unavailable(
            "kappa needs the package statsmodels, which is not installed here; install"
            " tuneloop[eval]"
        ) from e
    return inter_rater


def _pair(
    first: str,
    second: str,
    both: Sequence[tuple[str, str]],
    values: Sequence[str],
    inter_rater: Any,
) -> PairAgreement:
    import numpy as np

    same = sum(one == other for one, other in both)
    used = [value for value in values if any(value in labels for labels in both)]
    found: tuple[float | None, float | None, float | None] = (None, None, None)
    if len(used) > 1:
        table = np.zeros((len(used), len(used)))
        for one, other in both:
            table[used.index(one), used.index(other)] += 1
        result = inter_rater.cohens_kappa(table)
        found = (_number(result.kappa), _number(result.kappa_low), _number(result.kappa_upp))
    return PairAgreement(first, second, len(both), same, *found)


def _group(
    labels: Mapping[str, Mapping[str, str]],
    reviewers: Sequence[str],
    values: Sequence[str],
    inter_rater: Any,
) -> GroupAgreement | None:
    import numpy as np

    rows = [by for by in labels.values() if len(by) == len(reviewers)]
    if len(reviewers) < 3 or not rows:
        return None
    counts = np.array([[list(by.values()).count(value) for value in values] for by in rows])
    used = counts[:, counts.any(axis=0)]
    kappa = None
    if used.shape[1] > 1:
        kappa = _number(inter_rater.fleiss_kappa(used))
    return GroupAgreement(len(reviewers), len(rows), kappa)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
