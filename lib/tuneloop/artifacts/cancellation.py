"""The result of `tuneloop cancel`, the same for runs on a cluster and on this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cancellation:
    """What a cancellation ended, and what it could not end."""

    ended: tuple[str, ...] = ()
    """Objects that were deleted and processes that were asked to stop, such as `Job demo-train`."""
    kept: tuple[str, ...] = ()
    """Objects that were left alone, each with the reason."""
    remaining: tuple[str, ...] = ()
    """What still exists after the wait, each with the reason and what to do."""

    def __add__(self, other: Cancellation) -> Cancellation:
        """Combine two results, for example those of two runs."""
        return Cancellation(
            self.ended + other.ended, self.kept + other.kept, self.remaining + other.remaining
        )
