"""Plan an eval set before anyone trains: items for a gain, and the gain that items can show."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tuneloop.errors import UsageError
from tuneloop.evaluation.statistics.power import (
    MAX_ITEMS,
    detectable_gain,
    discordance_of,
    items_needed,
)

CORRELATIONS = (0.3, 0.5, 0.7)
"""Correlations of the models' answers for which a plan is made; the middle one is assumed."""


@dataclass(frozen=True)
class Case:
    """A plan for one discordance."""

    correlation: float | None
    """Correlation of the models' answers; None if the discordance was given."""
    discordance: float
    items: int | None
    """Items of the set; None if more than ten million are needed."""
    gain: float | None
    """Gain that they find; None if they find none with this power."""


@dataclass(frozen=True)
class Plan:
    """Items or gain for a power of the exact McNemar test at 5 %."""

    base: float
    power: float
    asked: str
    """`items` or `gain`: what was computed."""
    cases: tuple[Case, ...]

    @property
    def chosen(self) -> Case:
        """The case of the given discordance, or of the assumed correlation."""
        return self.cases[len(self.cases) // 2]

    def as_json(self) -> dict[str, Any]:
        """Return the plan for `--json`."""
        chosen = asdict(self.chosen)
        found = {"base": self.base, "power": self.power, "alpha": 0.05, **chosen}
        return {**found, "cases": [asdict(case) for case in self.cases]}

    def text(self) -> str:
        """Return the plan as lines of text."""
        lines = [self._sentence(self.chosen)]
        for case in self.cases if len(self.cases) > 1 else ():
            lines.append(
                f"  correlation {case.correlation:.1f}, {_percent(case.discordance)} of items"
                f" differ: {_items(case.items) if self.asked == 'items' else _gain(case.gain)}"
            )
        return "\n".join(lines)

    def _sentence(self, case: Case) -> str:
        power = f"with a probability of {_percent(self.power)}"
        differ = f"if the models differ on {_percent(case.discordance)} of the items"
        if self.asked == "items":
            return f"{_items(case.items)} find a gain of {_gain(case.gain)} {power}, {differ}"
        if case.gain is None:
            return f"{_items(case.items)} find no gain {power}, {differ}: add items"
        return f"{_items(case.items)} find a gain of {_gain(case.gain)} or more {power}, {differ}"


def plan_items(gain: float, *, base: float, power: float, discordance: float | None) -> Plan:
    """Compute the items that find a gain.

    Args:
        gain: gain to find, above 0.
        base: accuracy of the base model.
        power: probability of finding the gain.
        discordance: share of items on which the models differ; None derives it from `base`.

    Raises:
        UsageError: no model can have this gain.
    """
    if not 0 < gain <= 1 - base + 1e-12:
        raise UsageError(
            f"--gain {gain:g}: expected more than 0 and at most {1 - base:g}, because the base"
            f" model answers {_percent(base)} of the items correctly; correct --gain or --base"
        )
    if discordance is not None and discordance < gain:
        raise UsageError(
            f"--discordance {discordance:g}: expected at least --gain, because a gain of {gain:g}"
            " needs as many items that differ; correct one of them"
        )
    cases = tuple(
        Case(correlation, share, items_needed(gain, share, power), gain)
        for correlation, share in _shares(base, min(gain, 1 - base), discordance)
    )
    return Plan(base, power, "items", cases)


def plan_gain(items: int, *, base: float, power: float, discordance: float | None) -> Plan:
    """Compute the gain that a number of items finds.

    Args:
        items: items of the set.
        base: accuracy of the base model.
        power: probability of finding the gain.
        discordance: share of items on which the models differ; None derives it from `base` for
            models of equal accuracy.

    Raises:
        UsageError: there are too many items.
    """
    if items > MAX_ITEMS:
        raise UsageError(f"--items {items}: expected at most {MAX_ITEMS}; correct --items")
    cases = tuple(
        Case(correlation, share, items, detectable_gain(items, share, power))
        for correlation, share in _shares(base, 0.0, discordance)
    )
    return Plan(base, power, "gain", cases)


def _shares(
    base: float, gain: float, discordance: float | None
) -> list[tuple[float | None, float]]:
    if discordance is not None:
        return [(None, discordance)]
    return [(each, discordance_of(base, gain, each)) for each in CORRELATIONS]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _items(items: int | None) -> str:
    return f"more than {MAX_ITEMS:,} items" if items is None else f"{items:,} items"


def _gain(gain: float | None) -> str:
    return "none" if gain is None else f"{100 * gain:.3g} points"
