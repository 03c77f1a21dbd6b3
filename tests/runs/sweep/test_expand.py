"""Test the expansion of sweeps into members with property tests."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.errors import SpecError
from tuneloop.runs.sweep.expand import apply, expand, short_names
from tuneloop.specs.sweep import SweepSpec

WORD = st.text("abcdefgh_", min_size=1, max_size=4)
PATH = st.lists(WORD, min_size=1, max_size=4).map(".".join)
VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=60),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(WORD, st.integers(), max_size=2),
)


def is_free(paths: list[str]) -> bool:
    """Return whether no path is inside another one."""
    return not any(a != b and b.startswith(f"{a}.") for a in paths for b in paths)


PATHS = st.lists(PATH, min_size=1, max_size=4, unique=True).filter(is_free)


@st.composite
def grids(draw: st.DrawFn) -> dict[str, list[Any]]:
    values = st.lists(VALUE, min_size=1, max_size=4, unique_by=lambda v: json.dumps(v))
    return {path: draw(values) for path in draw(PATHS)}


def get(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value[part]
    return value


@given(grids())
def test_a_grid_has_every_combination_once(grid: dict[str, list[Any]]) -> None:
    variants = expand(SweepSpec(grid=grid, max_members=1000), "run.yaml")
    assert len(variants) == math.prod(map(len, grid.values()))
    assert [each.number for each in variants] == list(range(1, len(variants) + 1))
    assert len({json.dumps(dict(each.values)) for each in variants}) == len(variants)
    for each in variants:
        assert list(each.values) == list(grid)
        assert all(value in grid[path] for path, value in each.values.items())
        assert "\n" not in each.label
        assert each.label.count("=") >= len(grid)
    # The last field varies fastest.
    last = list(grid)[-1]
    assert [each.values[last] for each in variants[: len(grid[last])]] == grid[last]


@given(PATHS, st.data())
def test_values_get_to_their_path_and_nothing_else_changes(paths: list[str], data: Any) -> None:
    base = {"other": {"deep": [1, {"a": 2}]}, "ß": None}
    before = copy.deepcopy(base)
    values = {path: data.draw(VALUE) for path in paths}
    changed = apply(base, values)
    assert base == before
    for path, value in values.items():
        assert get(changed, path) == value
    assert {key: changed[key] for key in base} == base
    assert apply(base, dict(reversed(values.items()))) == changed  # in any order


@given(st.lists(PATH, min_size=1, max_size=8))
def test_short_names_are_unique_ends(paths: list[str]) -> None:
    names = short_names(paths)
    assert len(set(names.values())) == len(set(paths))
    for path, name in names.items():
        assert path == name or path.endswith(f".{name}")


def test_names_are_as_short_as_they_can_be() -> None:
    paths = ["train.method.rank", "train.optimizer.learning_rate", "export.seed", "seed"]
    names = short_names(paths)
    assert names["train.method.rank"] == "rank"
    assert names["train.optimizer.learning_rate"] == "learning_rate"
    assert names["export.seed"] == "export.seed"


def test_what_a_member_changes_is_not_shared_with_others() -> None:
    method = {"kind": "lora", "rank": 4}
    first, second = (apply({}, {"train.method": method}) for _ in range(2))
    first["train"]["method"]["rank"] = 8
    assert second["train"]["method"]["rank"] == method["rank"] == 4


def test_labels_are_short_and_on_one_line() -> None:
    values = ["é 🟡\nb" * 20, {"kind": "lora"}, None]
    labels = [each.label for each in expand(SweepSpec(grid={"a.b": values}), "run.yaml")]
    assert labels[0].startswith("b=é 🟡 bé")
    assert len(labels[0]) == len("b=") + 40
    assert labels[1:] == ['b={"kind": "lora"}', "b=null"]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"grid": {"a": [1, 2, 1]}}, "members 1 and 3 of the sweep are the same (a=1)"),
        ({"list": [{"a": 1}, {"a": 1}]}, "members 1 and 2 of the sweep are the same (a=1)"),
        ({"list": [{}, {}]}, "members 1 and 2 of the sweep are the same"),
        (
            {"grid": {"a": list(range(11)), "b": list(range(10))}},
            "sweep has 110 members, expected at most sweep.max_members (100)",
        ),
        (
            {"grid": {f"a{n}": list(range(1000)) for n in range(40)}},
            "members, expected at most sweep.max_members (100); remove values",
        ),
        ({"grid": {"a.b": [1], "a": [{"b": 2}]}}, "varies a and also a.b, which is inside it"),
    ],
)
def test_what_cannot_be_meant_is_refused(sweep: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        expand(SweepSpec.model_validate(sweep), "run.yaml:3")
    assert str(caught.value).startswith("run.yaml:3: ")
    assert message in str(caught.value)


def test_a_path_through_a_value_is_refused() -> None:
    with pytest.raises(SpecError, match="seed is 3 and no group of fields; correct the path"):
        apply({"seed": 3}, {"seed.x": 1})
