"""Descriptions of the rules of a selection, for tables in the shell and on web pages."""

from __future__ import annotations

from collections.abc import Mapping

_DESCRIPTIONS = {
    "datasets": "traces of the named datasets",
    "evaluation": "no answers of evaluated models",
    "filters": "filters on meta",
    "pass_rate": "pass rate of the prompt",
    "near_duplicates": "no near-duplicates",
    "best_of": "best of each prompt",
    "mix": "mix in proportion to the weights",
    "limit": "limit",
}
_FACTS = {
    "clusters": "{:,} clusters",
    "largest_cluster": "the largest of {:,} traces",
    "prompts": "{:,} prompts",
    "values": "{:,} values",
    "without_value": "{:,} without a value",
    "not_in_store": "{:,} deleted from the store",
}


def describe_rule(rule: str) -> str:
    """Describe a rule by what remains after it, such as `best of each prompt`."""
    return _DESCRIPTIONS.get(rule, rule)


def notes(missing: int, facts: Mapping[str, int]) -> str:
    """Describe the other counts of a rule; empty if there are none."""
    said = [f"{missing:,} without a value"] if missing else []
    said += [_FACTS.get(name, f"{name} {{:,}}").format(count) for name, count in facts.items()]
    return ", ".join(said)
