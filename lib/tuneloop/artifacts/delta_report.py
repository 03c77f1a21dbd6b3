"""What comparing two models comes to, for those who count it and those who read it in a report.

One rule: numbers alone. Whoever reads a report needs none of what made it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """Correct answers over all items; items without an answer count as not correct."""

    correct: int
    wrong: int
    no_answer: int
    low: float
    """Lower end of the Wilson interval at 95 %, as a share."""
    high: float
    """Upper end."""

    @property
    def total(self) -> int:
        """Items."""
        return self.correct + self.wrong + self.no_answer

    @property
    def share(self) -> float:
        """Correct over total."""
        return self.correct / self.total


@dataclass(frozen=True)
class Paired:
    """Items that the two models answered differently."""

    improved: int
    """Not correct by base, correct by tuned."""
    regressed: int
    """Correct by base, not correct by tuned."""
    p_value: float
    """Exact McNemar test: two-sided binomial test of improved against regressed at 1/2."""
