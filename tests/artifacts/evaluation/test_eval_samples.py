from __future__ import annotations

import pytest

from tuneloop.artifacts.evaluation.eval_samples import (
    EvalSamples,
    EvalSet,
    Item,
    Judgement,
    Model,
    Sample,
    dump_row,
    dump_samples,
    load_samples,
)
from tuneloop.errors import DataError

SET = EvalSet(name="v1", sha256="0" * 64, scorer="exact")
BASE = Model(name="base", digest="1" * 64)
ITEM = Item(set="v1", id="a", prompt="2⁵?\u202e", expected_answer="32", category="x")
SAMPLE = Sample(
    set="v1", item="a", model="base", text="🙂\n", tokens=1, score=Judgement("wrong", 0.0, "25")
)


def test_samples_are_read_as_they_were_written() -> None:
    found = EvalSamples(
        {SET.name: SET}, {BASE.name: BASE}, {(ITEM.set, ITEM.id): ITEM}, (SAMPLE, SAMPLE)
    )
    lines = list(dump_samples(found))
    assert load_samples(lines, "samples.jsonl") == found
    assert lines == list(dump_samples(found))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([SET, BASE, SAMPLE], r"s\.jsonl:3: .*no item \('v1', 'a'\)"),
        ([SET, ITEM, SAMPLE], r"s\.jsonl:3: .*no model 'base'"),
        ([ITEM], r"s\.jsonl:1: .*no set 'v1'"),
        ([SET, SET], r"s\.jsonl:2: .*set 'v1' is there twice"),
    ],
)
def test_a_row_needs_the_rows_that_it_names(rows: list[Item], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_samples(map(dump_row, rows), "s.jsonl")


def test_a_torn_row_is_named() -> None:
    with pytest.raises(DataError, match=r"s\.jsonl:2: not a row of samples"):
        load_samples([dump_row(SET), dump_row(BASE)[:20]], "s.jsonl")
