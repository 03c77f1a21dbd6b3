"""Rules of a selection as short texts, for the command line and for forms: `reward>=0.5`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

_EXPRESSION = re.compile(r"\s*(?P<field>.+?)\s*(?P<operator>>=|<=|!=|=)\s*(?P<value>.*?)\s*", re.S)
_BOUNDS = {">=": "min", "<=": "max"}
_LISTS = {"=": "any_of", "!=": "none_of"}


def parse_where(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read comparisons such as `reward>=0.5`, `source!=web` and `/tags/0=["a", "b"]`.

    A value is JSON, or else a text without quotes. `=` and `!=` take one value or a list of
    values. Comparisons of the same field are combined.

    Returns:
        The comparisons by field, for `SelectionSpec.where`.

    Raises:
        ValueError: a text is no comparison, or two of them contradict each other.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        match = _EXPRESSION.fullmatch(text)
        if match is None:
            raise ValueError(
                f"comparison {text[:60]!r}: expected FIELD>=VALUE, FIELD<=VALUE, FIELD=VALUE or"
                " FIELD!=VALUE"
            )
        operator, value = match["operator"], _value(match["value"])
        name = _BOUNDS.get(operator) or _LISTS[operator]
        if operator in _LISTS:
            value = value if isinstance(value, list) else [value]
        comparison = found.setdefault(match["field"], {})
        if name in comparison and name != "none_of":
            raise ValueError(
                f"comparison {text[:60]!r}: found {operator} twice for {match['field'][:60]}"
            )
        comparison[name] = [*comparison.get(name, []), *value] if name == "none_of" else value
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as e:
        raise ValueError(f"value {text[:60]!r}: is nested too deeply, expected fewer levels") from e
    except ValueError:
        if text.startswith(("=", "<", ">")):  # a slip such as `reward==1` or `reward=>1`
            raise ValueError(
                f"value {text[:60]!r}: begins with an operator, expected a value after one of >=,"
                " <=, = and !=, or a text in double quotes"
            ) from None
        return text


def parse_filters(text: str) -> Any:
    """Read filters on meta, which are a JSON object; a blank text has none.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        return json.loads(text) if text.strip() else {}
    except RecursionError as e:
        raise ValueError("filters: are nested too deeply, expected a JSON object") from e
    except ValueError as e:
        raise ValueError(f"filters: not JSON ({e}), expected a JSON object") from e


def parse_numbers(texts: Iterable[str], missing: float | None = None) -> dict[str, float]:
    """Read numbers by name, such as `source=1000`.

    Args:
        texts: the texts, each NAME=NUMBER.
        missing: number of a text that is a name alone; None refuses such a text.

    Raises:
        ValueError: a text has another form, or a name occurs twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=") if "=" in text else (text, "", "")
        name = name.strip()
        try:
            value = float(number) if number or missing is None else missing
        except ValueError as e:
            raise ValueError(f"{text[:60]!r}: expected NAME=NUMBER") from e
        if name in found or not name:
            raise ValueError(f"{text[:60]!r}: expected NAME=NUMBER with another name each time")
        found[name] = int(value) if value.is_integer() else value
    return found


def build_rules(
    where: Iterable[str] = (),
    caps: Iterable[str] = (),
    datasets: Iterable[str] = (),
    *,
    pass_rate: tuple[float, float | None, float | None] = (1.0, None, None),
    near_duplicates: tuple[str | None, int] = (None, 1),
    best_of: tuple[int | None, str] = (None, "reward"),
) -> dict[str, Any] | None:
    """Build the rules of a request from options or fields of a form, without validating them.

    Args:
        where: comparisons, see `parse_where`.
        caps: FIELD=COUNT each.
        datasets: KEY or KEY=WEIGHT each.
        pass_rate: threshold of the reward, smallest and largest share; without both shares there is
            no rule.
        near_duplicates: what is compared, and the number per cluster; None is no rule.
        best_of: number per prompt, and the field; None is no rule.

    Returns:
        The rules, for `SelectionSpec`; None if there are none.

    Raises:
        ValueError: a text has the wrong form.
    """
    rules: dict[str, Any] = {
        "where": parse_where(where),
        "caps": parse_numbers(caps),
        "datasets": parse_numbers(datasets, 1.0),
    }
    if any(share is not None for share in pass_rate[1:]):
        rules["pass_rate"] = dict(zip(("threshold", "min", "max"), pass_rate, strict=True))
    if near_duplicates[0] is not None:
        rules["near_duplicates"] = dict(zip(("text", "keep"), near_duplicates, strict=True))
    if best_of[0] is not None:
        rules["best_of"] = dict(zip(("count", "by"), best_of, strict=True))
    return {name: rule for name, rule in rules.items() if rule} or None
