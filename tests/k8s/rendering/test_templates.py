from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.errors import SpecError
from tuneloop.k8s.rendering.templates import fill, parse_template

TEMPLATE = b"""
metadata:
  name: ${name}
  labels: ${labels}
spec:
  count: ${count}
  list: [a, "${name}"]
"""


def test_values_keep_their_type() -> None:
    template = parse_template(TEMPLATE, "t.yaml")
    values = {"name": "1e3", "labels": {"a": "b"}, "count": 3}
    assert fill(template, values) == {
        "metadata": {"name": "1e3", "labels": {"a": "b"}},
        "spec": {"count": 3, "list": ["a", "1e3"]},
    }


@given(st.text())
def test_a_value_cannot_inject_structure(text: str) -> None:
    template = parse_template(b"a: ${x}\nb: 1\n", "t.yaml")
    assert fill(template, {"x": text}) == {"a": text, "b": 1}


def test_filled_values_are_copies() -> None:
    template = parse_template(b"a: ${x}\nb: ${x}\n", "t.yaml")
    filled = fill(template, {"x": {"k": []}})
    filled["a"]["k"].append(1)
    assert filled["b"] == {"k": []}


def test_an_empty_collection_takes_its_key_away_but_not_one_that_stood_there() -> None:
    template = parse_template(b"a: ${x}\nb: ${x}\nc: {}\nd: ${text}\n", "t.yaml")
    assert fill(template, {"x": {}, "text": ""}) == {"c": {}, "d": ""}
    assert fill(template, {"x": {"e": {}}, "text": 0})["a"] == {"e": {}}


def test_missing_and_unused_values_are_errors() -> None:
    template = parse_template(TEMPLATE, "t.yaml")
    with pytest.raises(SpecError, match=r"t\.yaml: placeholder \$\{labels\} has no value"):
        fill(template, {"name": "x"})
    with pytest.raises(SpecError, match=r"t\.yaml: no placeholder uses extra, more"):
        fill(template, {"name": "", "labels": 1, "count": 1, "extra": 1, "more": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: {", "broken YAML"),
        (b"- a", "found list, expected one Kubernetes object"),
        (b"a: x-${name}", "expected it to be the whole value"),
        (b"a: ['${Name}']", "expected it to be the whole value"),
        (b"${name}: a", "use placeholders only in values"),
        (b"1: a", "expected a name"),
    ],
)
def test_broken_templates_are_refused(text: bytes, message: str) -> None:
    with pytest.raises(SpecError, match=r"t\.yaml:") as caught:
        parse_template(text, "t.yaml")
    assert message in str(caught.value)
