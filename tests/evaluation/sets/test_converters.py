"""Datasets of other tools become eval sets; every row is an item, or is listed with a reason."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.builders import Invoke
from tuneloop.errors import DataError, UsageError
from tuneloop.evaluation.sets.converters.convert import Converted, convert
from tuneloop.evaluation.sets.converters.schema import Options
from tuneloop.evaluation.sets.schema import read_eval_set


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def converted(kind: str, *rows: Any, **options: Any) -> Converted:
    chosen = Options(**{"category": "c", **options})
    return convert(lines(*rows), "data.jsonl", kind, chosen, prefix="data")


def table(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def test_samples_of_inspect() -> None:
    found = converted(
        "inspect",
        {"input": "Capital of France? 🗼", "target": "Paris", "id": 7, "metadata": {"page": 3}},
        {"input": "Say hi", "target": ["hi", "hello", "hi"], "sandbox": "docker"},
        {"input": "Which?", "target": "B", "choices": ["Röme", "Oslo"], "id": "x"},
        {"input": [{"role": "user", "content": [{"type": "text", "text": "2+2"}]}], "target": "4"},
        {
            "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}],
            "target": "b",
        },
        {"input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"input": [{"role": "user", "content": [{"type": "image", "image": "x"}]}], "target": "4"},
        {"input": "Which two?", "target": ["A", "B"], "choices": ["x", "y"]},
        {"input": "Which now?", "target": "C", "choices": ["x", "y"]},
        {"input": "Half?", "target": 0.5},
        {"input": " SAY  hi", "target": "hi"},
        {"target": "hi"},
    )
    first, second, third, fourth = found.items
    assert (first.id, first.expected_answer, first.meta) == ("7", "Paris", {"page": 3})
    assert (second.id, second.accepted_answers) == ("data-00002", ("hello",))
    assert second.meta == {"sandbox": "docker"}
    assert third.prompt == "Which?\n\nA) Röme\nB) Oslo"
    assert third.expected_answer == "B"
    assert third.scorer == {"kind": "choice", "choices": {"A": "Röme", "B": "Oslo"}}
    assert fourth.prompt == "2+2"
    assert found.dropped == {
        "input has a system message, expected none; see --system": [5],
        "input has a turn of assistant, expected one user message": [6],
        "input has content that is not text, such as an image": [7],
        "target names several choices, expected one": [8],
        "the answer is no label, number or text of the choices": [9],
        "the answer is a fraction, expected text": [10],
        "its question is that of an earlier row": [11],
        "the question is missing, expected text": [12],
    }
    assert found.rows == len(found.items) + found.dropped_rows == 12


def test_samples_of_openai_evals() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    found = converted(
        "openai-evals",
        {"input": turns, "ideal": ["2", "two"]},
        {"input": "3+3?", "ideal": "6", "note": {"a": None}},
        {"input": "4+4?"},
        system="prepend",
    )
    assert [(item.prompt, item.expected_answer) for item in found.items] == [
        *(("Be brief.\n\n1+1?", "2"), ("3+3?", "6"))
    ]
    assert found.items[1].meta == {"note": {"a": None}}
    assert found.dropped == {"the answer is missing, expected text": [3]}


def test_logged_samples_of_lm_eval() -> None:
    def sample(number: int, target: str, **doc: Any) -> dict[str, Any]:
        prompt = f"Question: {number}?\nAnswer:"
        return {
            "doc_id": number,
            "doc": doc,
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["\n"]}}},
            "resps": [["I think 72"]],
            "filtered_resps": ["72"],
            "filter": "strict-match",
            "doc_hash": "d",
            "exact_match": 1.0,
        }

    gsm = sample(0, "He has 48/2 = 24.\n#### 72", question="q", subject="sums")
    arc = {"text": ["fur", "heat"], "label": ["1", "2"]}
    found = converted(
        "lm-eval",
        gsm,
        gsm | {"filter": "flexible-extract"},
        sample(1, "no mark"),
        {"doc_id": 2, "target": "x"},
        answer_after="####",
        category_from="subject",
    )
    (item,) = found.items
    assert (item.id, item.expected_answer, item.category) == ("0", "72", "sums")
    assert item.prompt == "Question: 0?\nAnswer:"
    assert item.meta == {"doc": gsm["doc"], "doc_id": 0, "doc_hash": "d"}
    assert found.dropped == {
        "its id is that of an earlier row": [2],
        "the answer has no '####'": [3],
        "doc is missing, expected the document of the sample": [4],
    }
    found = converted(
        "lm-eval",
        sample(0, "1", choices=["a", "b", "c"]),
        sample(1, "2", choices=arc, question="Warm?"),
        sample(2, "7", choices=["a", "b"]),
    )
    assert [item.expected_answer for item in found.items] == ["B", "B"]
    assert found.items[1].prompt.endswith("Answer:\n\nA) fur\nB) heat")
    old = {**gsm, "arguments": [["Older log", {}]], "target": "1"}
    columns = {"prompt": "question", "category": "subject"}
    assert converted("lm-eval", old).items[0].prompt == "Older log"
    (item,) = converted("lm-eval", old, columns=columns).items
    assert (item.prompt, item.category) == ("q", "sums")


def test_a_table_of_datasets() -> None:
    data = table(
        question=["1+1?", "Blue?", "Ü 🟡?", None],
        answer=["It is\n#### 2", "#### a #### b", "none", "#### 4"],
        level=[1, 2, 3, 4],
        image=[b"\x89PNG", b"", b"", b""],
        nested=[{"bytes": b"1", "path": "a"}] * 4,
    )
    options = Options(
        columns={"prompt": "question", "expected_answer": "answer", "category": "level"},
        answer_after="####",
    )
    found = convert(data, "t.parquet", "datasets", options, prefix="gsm")
    assert [(item.id, item.expected_answer, item.category) for item in found.items] == [
        *(("gsm-00001", "2", "1"), ("gsm-00002", "b", "2"))
    ]
    assert found.dropped == {
        "the answer has no '####'": [3],
        "the question is missing, expected text": [4],
    }
    assert found.left_out == {"image", "nested"}
    mmlu = table(q=["Which?"], options=[["x", "y"]], right=[1], extra=["kept"])
    columns = {"prompt": "q", "expected_answer": "right", "choices": "options"}
    (item,) = convert(
        mmlu, "t", "datasets", Options(category="m", columns=columns), prefix="m"
    ).items
    assert (item.expected_answer, item.meta) == ("B", {"extra": "kept"})


@pytest.mark.parametrize(
    ("kind", "data", "options", "error", "message"),
    [
        ("inspect", b"", {"category": "c"}, DataError, "the file has no rows"),
        ("inspect", b"{", {"category": "c"}, DataError, "data:1: broken JSON"),
        ("inspect", lines({"input": "x"}), {}, UsageError, "found no category"),
        ("inspect", b"", {"columns": {"id": "x"}}, UsageError, "inspect has fixed keys"),
        ("datasets", b"", {"columns": {"prompt": "x"}}, UsageError, "no column for expected_ans"),
        ("datasets", b"no", {}, DataError, "not a readable Parquet file"),
        ("datasets", b"", {}, DataError, "not a readable Parquet file"),
        ("datasets", table(a=["x"]), {}, UsageError, "has no column 'q', expected one of: a"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence(
    kind: str, data: bytes, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    if kind == "datasets":
        columns = {"prompt": "q", "expected_answer": "a"}
        options = {"category": "c", "columns": columns, **options}
    with pytest.raises(error, match=message):
        convert(data, "data", kind, Options(**options), prefix="x")


def test_the_verb(tuneloop: Invoke, tmp_path: Path) -> None:
    source, made = tmp_path / "s.jsonl", tmp_path / "new_v1.jsonl"
    source.write_bytes(lines({"input": "1+1?", "ideal": "2"}, *[{"input": "?"}] * 9))
    arguments = ["eval-sets", "convert", source, "--from", "openai-evals", "--category", "sums"]
    named = ["--name", "new", "--set-version", "1"]
    code, out, err = tuneloop(*arguments, *named, "-o", made)
    assert (code, out) == (0, "")
    assert (
        "9 dropped: the answer is missing, expected text (rows 2, 3, 4, 5, 6, 7, 8, 9 and 1 more)"
        in err
    )
    assert f"{made}: 10 rows, 1 items, 9 dropped" in err
    found = read_eval_set(made.read_bytes(), "made")
    assert found.header is not None and found.header.version == "1"
    assert found.items[0].id == "new-00001"
    assert tuneloop("eval-sets", "check", made)[0] == 0
    code, out, _ = tuneloop(*arguments, *named, "-o", made, "--json")
    assert code == 0 and json.loads(out)["dropped"][0]["rows"] == list(range(2, 11))
    code, _, err = tuneloop(*arguments, "-o", made)
    assert (code, "exists with another content" in err) == (2, True)
    assert tuneloop(*arguments, "-o", "-")[1].startswith('{"id": "')
    for wrong, message in {
        ("--from", "x"): "--from x: unknown, expected one of inspect, lm-eval",
        ("--columns", "a"): "--columns a: expected each key once",
        ("--system", "x"): "expected drop or prepend",
        ("--name", "x"): "version is missing",
    }.items():
        code, _, err = tuneloop(*arguments, "-o", tmp_path / "x.jsonl", *wrong)
        assert (code, message in err) == (2, True), err
