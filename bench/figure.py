"""Print the figure of a benchmark, and choose its sizes: full, or tiny for a smoke run.

In a smoke run (`--smoke`, or TUNELOOP_BENCH_SMOKE=1) a script does everything that it does
otherwise, with tiny sizes and one round. Its figures then mean nothing, but a script that no longer
fits the library fails.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence

SMOKE = "--smoke" in sys.argv or os.environ.get("TUNELOOP_BENCH_SMOKE", "0") != "0"
"""Whether this is a smoke run."""


def sized(full: int, smoke: int) -> int:
    """Return a size or a number of rounds: `full`, or `smoke` in a smoke run."""
    return smoke if SMOKE else full


def print_figure(
    name: str, unit: str, pairs: Sequence[tuple[float, float]], *, paired: bool = False
) -> None:
    """Print the medians of alternately measured (ours, rival) pairs as one line of JSON.

    Args:
        name: name of the figure.
        unit: unit of both values.
        pairs: measurements of both, one after the other.
        paired: print the median of the pairs' ratios instead of the medians' ratio. It differs less
            from run to run if the machine's speed changes between the pairs.
    """
    value, rival = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(ours / theirs for ours, theirs in pairs) if paired else value / rival
    figure = {
        "figure": name,
        "value": round(value, 4),
        "unit": unit,
        "rival": round(rival, 4),
        "ratio": round(ratio, 3 if paired else 2),
    }
    print(json.dumps(figure))
