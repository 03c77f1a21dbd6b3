"""Wrong verdicts, power, coverage and cost of paired comparisons, beside evalstats, evalconfidence.

All libraries see the same simulated models. A table shows, for each setting, how often equal models
are told apart (at most 5 % is right), how often a gain of 10 points is found, how often the 95 %
interval holds the true gain, and CPU milliseconds per comparison. `watched` looks after every 25
items and stops with the first verdict. The rivals have no paired comparison of items in groups and
no sequential test; they get the same items.

A second table shows after which share of the items of the exact McNemar test our test that may be
looked at any time has decided in half of all evaluations.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from evalconfidence import ItemResult
from evalconfidence import compare as evalconfidence_compare
from evalstats.core.paired import pairwise_differences
from figure import print_figure, sized
from numpy.typing import NDArray

from tuneloop.evaluation.statistics.paired import compare_scores
from tuneloop.evaluation.statistics.power import items_needed
from tuneloop.evaluation.statistics.sequential import look, wins_needed

warnings.simplefilter("ignore")  # the rivals warn about few items

ROUNDS = sized(400, 3)
WATCHED_ROUNDS = sized(150, 2)
LOOK_EVERY = sized(25, 10)
Floats = NDArray[np.float64]
Groups = NDArray[np.int64]
Verdict = tuple[bool, float, float]
"""Whether the models are told apart, and the ends of the interval of the gain."""


@dataclass
class Tally:
    """Verdicts of one library in one setting."""

    apart: list[bool] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    seconds: float = 0.0


def ours(base: Floats, tuned: Floats, groups: Groups) -> Verdict:
    """Compare by this library."""
    found = compare_scores(base, tuned, groups)
    return found.verdict != "no detectable difference", found.low, found.high


def by_evalstats(base: Floats, tuned: Floats, _: Groups) -> Verdict:
    """Compare by evalstats: May and Johnson's interval and McNemar's mid-p test."""
    rng = np.random.default_rng(0)
    scores = np.array([tuned, base])
    found = pairwise_differences(scores, 0, 1, method="mj_floor", rng=rng)
    return found.p_value < 0.05, found.ci_low, found.ci_high


def by_evalconfidence(base: Floats, tuned: Floats, _: Groups) -> Verdict:
    """Compare by evalconfidence."""
    rows = [
        [ItemResult(str(n), name, value) for n, value in enumerate(values)]
        for name, values in (("tuned", tuned), ("base", base))
    ]
    found = evalconfidence_compare(*rows)
    return bool(found.significant), *found.ci_diff


LIBRARIES: dict[str, Callable[[Floats, Floats, Groups], Verdict]] = {
    "tuneloop": ours,
    "evalstats": by_evalstats,
    "evalconfidence": by_evalconfidence,
}


def draw(
    rng: np.random.Generator, count: int, size: int, gain: float, discordance: float, effect: float
) -> tuple[Floats, Floats, Groups]:
    """Draw two models on `count` groups of `size` items, which share an effect on the gain."""
    shared = rng.choice([-effect, effect], (count, 1))
    up, down = (discordance + gain + shared) / 2, (discordance - gain - shared) / 2
    drawn = rng.random((count, size))
    won, lost = drawn < up, (drawn >= up) & (drawn < up + down)
    base = np.where(won, False, lost | (rng.random((count, size)) < 0.5))
    tuned = np.where(won, True, np.where(lost, False, base))
    groups = np.repeat(np.arange(count), size)
    return base.ravel().astype(float), tuned.ravel().astype(float), groups


def measure(count: int, size: int, gain: float, discordance: float) -> dict[str, Tally]:
    """Compare the same pairs of models by all libraries."""
    rng = np.random.default_rng(1)
    tallies = {name: Tally() for name in LIBRARIES}
    for _ in range(ROUNDS):
        drawn = draw(rng, count, size, gain, discordance, 0.25 if size > 1 else 0.0)
        for name, compare in LIBRARIES.items():
            start = time.process_time()
            apart, low, high = compare(*drawn)
            tallies[name].seconds += time.process_time() - start
            tallies[name].apart.append(apart)
            tallies[name].held.append(low <= gain <= high)
    return tallies


def watched(items: int, discordance: float) -> dict[str, float]:
    """Return how often equal models are told apart by someone who looks again and again."""
    rng = np.random.default_rng(2)
    wrong = dict.fromkeys(("tuneloop, any time", *LIBRARIES), 0)
    for _ in range(WATCHED_ROUNDS):
        base, tuned, groups = draw(rng, items, 1, 0.0, discordance, 0.0)
        wrong["tuneloop, any time"] += look(tuned - base, groups).decision != "undecided"
        for name, compare in LIBRARIES.items():
            wrong[name] += any(
                compare(base[:end], tuned[:end], groups[:end])[0]
                for end in range(LOOK_EVERY, items + 1, LOOK_EVERY)
            )
    return {name: count / WATCHED_ROUNDS for name, count in wrong.items()}


def decided_after(discordance: float, power: float) -> tuple[float, int]:
    """Return the median number of items of our test, and the number of McNemar's test."""
    most, rounds = 1_500, sized(4_000, 50)
    drawn = np.random.default_rng(3).random((rounds, most), np.float32)
    won = np.cumsum(drawn < (discordance + 0.1) / 2, 1, np.int16)
    differing = np.cumsum(drawn < discordance, 1, np.int16)
    reached = won >= wins_needed(0.05, 1_000)[differing]
    after = np.where(reached.any(1), reached.argmax(1) + 1, most)
    return float(np.median(after)), items_needed(0.1, discordance, power) or 0


def main() -> None:
    """Print the tables and the figures."""
    settings = {
        "500 items, 30 % differ": (sized(500, 40), 1, 0.3),
        "100 items, 30 % differ": (sized(100, 20), 1, 0.3),
        "60 groups of 5, 60 % differ": (sized(60, 10), 5, 0.6),
    }
    print("| setting | library | wrong verdicts | gain of 10 found | interval holds | CPU ms |")
    print("|---|---|--:|--:|--:|--:|")
    for setting, (count, size, discordance) in settings.items():
        equal = measure(count, size, 0.0, discordance)
        better = measure(count, size, 0.1, discordance)
        for name in LIBRARIES:
            held = np.mean(equal[name].held + better[name].held)
            cost = (equal[name].seconds + better[name].seconds) / (2 * ROUNDS)
            print(
                f"| {setting} | {name} | {np.mean(equal[name].apart):.1%} |"
                f" {np.mean(better[name].apart):.1%} | {held:.1%} | {1000 * cost:.2f} |"
            )
            if name == "tuneloop":
                mine = float(held), cost
            elif name == "evalconfidence":
                theirs = float(held), cost
    for name, share in watched(sized(500, 30), 0.3).items():
        print(f"| watched, 500 items, 30 % differ | {name} | {share:.1%} | | | |")
    print("\n| items that differ | power | median items | McNemar's | share |")
    print("|--:|--:|--:|--:|--:|")
    for discordance in (0.2, 0.3, 0.4):
        for power in (0.8, 0.9, 0.95, 0.99):
            median, fixed = decided_after(discordance, power)
            share = median / fixed
            print(f"| {discordance:.0%} | {power:.0%} | {median:.0f} | {fixed} | {share:.0%} |")
    print_figure("eval_statistics_coverage_in_groups", "share", [(mine[0], theirs[0])])
    print_figure("eval_statistics_seconds_in_groups", "CPU seconds", [(mine[1], theirs[1])])
    print_figure("eval_statistics_items_decided", "items", [decided_after(0.3, 0.95)])


if __name__ == "__main__":
    main()
