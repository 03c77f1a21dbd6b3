"""Print the figure of a benchmark."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence


def print_figure(name: str, unit: str, pairs: Sequence[tuple[float, float]]) -> None:
    """Print the medians of alternately measured (ours, rival) pairs as one line of JSON."""
    value, rival = (statistics.median(column) for column in zip(*pairs, strict=True))
    figure = {
        "figure": name,
        "value": round(value, 4),
        "unit": unit,
        "rival": round(rival, 4),
        "ratio": round(value / rival, 2),
    }
    print(json.dumps(figure))
