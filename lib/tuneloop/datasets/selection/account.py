"""The account of a selection: what each rule removed, and what is left."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RuleCount(BaseModel):
    """Effect of one rule."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    rule: str
    """Name of the rule, such as `where reward`."""
    removed: int = Field(ge=0)
    """Traces that the rule removed."""
    missing: int = Field(default=0, ge=0)
    """Those of them that were removed because they do not have the value."""
    left: int = Field(ge=0)
    """Traces that are left after the rule."""
    facts: dict[str, int] = {}
    """Other counts of the rule, such as the size of the largest cluster."""


class SelectionAccount(BaseModel):
    """Every trace that was considered is either selected or removed by one rule."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    considered: int = Field(ge=0)
    """Traces before the first rule."""
    rules: tuple[RuleCount, ...] = ()
    """The rules in the order in which they were applied."""
    selected: int = Field(ge=0)
    """Traces that all rules kept."""

    def removed(self, rule: str) -> int:
        """Return how many traces a rule removed; 0 if it was not applied."""
        return sum(one.removed for one in self.rules if one.rule == rule)

    def after(self, earlier: SelectionAccount) -> SelectionAccount:
        """Return the account of these rules after earlier ones, which kept what they considered."""
        return SelectionAccount(
            considered=earlier.considered,
            rules=(*earlier.rules, *self.rules),
            selected=self.selected,
        )


class Tally:
    """Collects the account while rules are applied one after the other."""

    def __init__(self, considered: int) -> None:
        """Start before the first rule."""
        self._considered = self._left = considered
        self._rules: list[RuleCount] = []

    def add(self, rule: str, left: int, *, missing: int = 0, **facts: int) -> None:
        """Record that a rule has left this many traces."""
        removed = self._left - left
        self._rules.append(
            RuleCount(rule=rule, removed=removed, missing=missing, left=left, facts=facts)
        )
        self._left = left

    def account(self) -> SelectionAccount:
        """Return the account of the rules so far."""
        return SelectionAccount(
            considered=self._considered, rules=tuple(self._rules), selected=self._left
        )
