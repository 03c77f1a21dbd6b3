"""Count the steps that a restarted training has to make again.

Each heartbeat carries the count, so it survives any number of restarts. It is for people alone, and
no result depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.artifacts.progress import Progress


@dataclass
class Restarts:
    """What earlier attempts have done."""

    reached: int = 0
    """Step of the earlier attempts that this one has not continued yet."""
    repeated: int = 0
    """Steps that have to be made again, of all restarts so far."""

    @classmethod
    def after(cls, found: Progress | None) -> Restarts:
        """Return the counts at the start of an attempt.

        Args:
            found: last heartbeat of the attempt before; None if there was none.
        """
        if found is None:
            return cls()
        # An attempt that ended before its first step passes on what it found.
        reached = max(found.step or 0, found.reached_step or 0)
        return cls(reached, found.repeated_steps or 0)

    def first_step(self, step: int) -> None:
        """Count the steps from the one that this attempt begins with."""
        self.repeated += max(0, self.reached - (step - 1))
        self.reached = 0

    def as_json(self) -> dict[str, int]:
        """Return the keys for the next heartbeat; empty without a restart."""
        found = {"reached_step": self.reached, "repeated_steps": self.repeated}
        return {name: value for name, value in found.items() if value}
