"""The key `sweep` of a run spec: which fields vary, and when to stop. No run is changed by it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tuneloop.specs.base import Spec

MOST_MEMBERS = 1000
FieldPath = Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$", max_length=200)]


class MedianStop(Spec):
    """Early stop by the median rule, as in Google Vizier and Optuna's MedianPruner.

    A member is stopped at a checkpoint if its lowest validation loss so far is above the median of
    the other members' lowest losses up to the same step. What it has written is kept.
    """

    kind: Literal["median"] = "median"
    min_members: int = Field(default=4, ge=1)
    """Number of other members that must have reached the step before the rule applies."""
    min_steps: int = Field(default=1, ge=1)
    """Number of steps before which no member is stopped; a higher value spares slow starters."""


class SweepSpec(Spec):
    """A sweep: runs of one spec that differ in the values of a few fields.

    Exactly one of `grid` and `list` is given.
    """

    grid: dict[FieldPath, list[Any]] | None = None
    """Path of a field, such as `train.optimizer.learning_rate` -> its values; each combination of
    values is a member."""
    members: list[dict[FieldPath, Any]] | None = Field(default=None, alias="list")
    """Members one by one: path of a field -> its value."""
    parallelism: int = Field(default=1, ge=1, le=64)
    """Maximum number of members that run at the same time on a cluster; on one machine, members
    run one after another."""
    max_members: int = Field(default=100, ge=1, le=MOST_MEMBERS)
    """Maximum number of members; a larger sweep is refused before anything runs."""
    budget_chip_hours: float | None = Field(default=None, gt=0)
    """Chip-hours that all members together may hold; when they are used up, running members are
    stopped at a checkpoint and no other starts. Null sets no limit; CPUs do not count."""
    early_stop: MedianStop | None = None
    """Rule that stops members with a high validation loss; needs `train.validation`. Null trains
    every member to its end."""

    @model_validator(mode="after")
    def _has_members(self) -> SweepSpec:
        if (self.grid is None) == (self.members is None):
            raise ValueError("expected one of the two keys `grid` and `list`")
        if self.grid == {} or self.members == []:
            key = "grid" if self.members is None else "list"
            raise ValueError(f"{key} is empty, expected at least one member; add a field to vary")
        for path, values in (self.grid or {}).items():
            if not values:
                raise ValueError(f"grid.{path} is empty, expected a list of values; add a value")
        return self
