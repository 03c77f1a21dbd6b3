"""Statistics of example lengths: quantiles, a histogram and its picture.

All are computed from (length, count) pairs, so that memory use depends on the number of distinct
lengths and not on the number of examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneloop import templating

QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
BINS = 20


def summarise(counts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Compute quantiles, mean and histogram.

    Args:
        counts: pairs of a length and the number of examples with that length; at least one pair.

    Returns:
        A dict for the record with `quantiles` by name, `mean`, and `histogram`, which has one more
        `edges` than `counts`.
    """
    values, weights = np.array(counts, dtype=np.int64).T
    found = np.quantile(values, list(QUANTILES.values()), weights=weights, method="inverted_cdf")
    heights, edges = np.histogram(values, bins=BINS, weights=weights)
    return {
        "mean": round(float(np.average(values, weights=weights)), 3),
        "quantiles": dict(zip(QUANTILES, map(int, found), strict=True)),
        "histogram": {
            "edges": [round(float(edge), 3) for edge in edges],
            "counts": [int(height) for height in heights],
        },
    }


def render_picture(lengths: dict[str, dict[str, Any]]) -> str:
    """Draw the histograms, one above the other, as a self-contained SVG picture."""
    return templating.render("training/export/lengths.svg.j2", lengths=lengths).rstrip()
