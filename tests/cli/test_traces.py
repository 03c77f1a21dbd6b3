"""`traces import` and `traces export`: types of files, columns, refused records, formats."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import pyzstd

from tests.builders import Invoke
from tuneloop.storage import files

QUESTIONS = "question,answer,note\n2 + 2?,4,sum\n3 + 3?,6,sum\n"


def stored(tuneloop: Invoke, store: str, *options: object) -> list[dict[str, Any]]:
    code, out, _ = tuneloop("traces", "export", "--store", store, *options)
    assert code == 0
    return [json.loads(line) for line in out.splitlines()]


def test_a_table_is_imported_by_its_columns_from_any_place(
    tuneloop: Invoke, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "qa.csv"
    path.write_text(QUESTIONS)
    options = ("--store", store, "--format", "prompt_completion", "--drop", "note")
    columns = ("--column", "prompt=question", "--column", "completion=answer")
    code, out, _ = tuneloop("traces", "import", path, *options, *columns, "--json")
    assert (code, json.loads(out)) == (0, {"traces": 2})
    code, _, _ = tuneloop("traces", "import", path, *options, *columns)
    found = stored(tuneloop, store)
    assert [trace["prompt"] for trace in found] == ["3 + 3?", "2 + 2?"]  # once
    assert [trace["meta"] for trace in found] == [None, None]
    (tmp_path / "qa.csv.zst").write_bytes(pyzstd.compress(QUESTIONS.encode()))
    files.write("memory://import/qa.csv.gz", gzip.compress(QUESTIONS.encode()))
    mapped = ("--columns", "prompt=question,completion=answer", "--json")
    for place in (tmp_path / "qa.csv.zst", "memory://import/qa.csv.gz"):
        code, out, _ = tuneloop("traces", "import", place, *options, *mapped)
        assert (code, json.loads(out)) == (0, {"traces": 2})
    packed = io.TextIOWrapper(io.BytesIO(gzip.compress(QUESTIONS.encode())))
    monkeypatch.setattr("sys.stdin", packed)
    code, out, _ = tuneloop("traces", "import", "-", *options, *mapped, "--file-type", "csv")
    assert (code, json.loads(out)) == (0, {"traces": 2})
    code, _, err = tuneloop("traces", "import", path, *options, "--column", "prompt=x")
    assert (code, "has no 'x', which --columns names, expected one of question" in err) == (
        12,
        True,
    )
    code, _, err = tuneloop("traces", "import", path, *options, "--file-type", "xls")
    assert (code, "expected one of arrow, csv, json, parquet, semicolons, tsv" in err) == (2, True)


def test_one_invalid_record_refuses_the_file_unless_it_is_skipped(
    tuneloop: Invoke, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chats.jsonl"
    good = [{"prompt": f"{n} + 0?", "completion": str(n)} for n in range(3)]
    path.write_text(json.dumps(good[0]) + '\n{"prompt": "x"}\nnot json\n' + json.dumps(good[1]))
    command = ("traces", "import", path, "--store", store, "--format", "messages")
    code, _, err = tuneloop(*command)
    assert (code, err.startswith(f"tuneloop: {path}:2: ")) == (12, True)
    assert stored(tuneloop, store) == []
    code, _, err = tuneloop(*command, "--refused", tmp_path / "r.jsonl")
    assert (code, "--refused: is of use only with --skip-invalid" in err) == (2, True)
    refused = tmp_path / "r.jsonl"
    code, out, _ = tuneloop(*command, "--skip-invalid", "--refused", refused)
    assert code == 0
    assert out.splitlines() == [
        f"2 traces of {path} are in the store",
        f"2 records were refused; {refused} has them with the reasons",
    ]
    lines = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [line["place"] for line in lines] == [f"{path}:2", f"{path}:3"]
    assert [line["record"] for line in lines] == [{"prompt": "x"}, "not json"]
    assert "broken JSON" in lines[1]["reason"]
    assert len(stored(tuneloop, store)) == 2
    # Nothing is valid: the file is refused, and its records are listed in the current folder.
    path.write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = tuneloop(*command, "--skip-invalid")
    assert (code, "has no traces (1 records refused, 0 skipped)" in err) == (12, True)
    assert json.loads((tmp_path / "chats.jsonl.refused.jsonl").read_text())["record"] == {}


def test_what_is_exported_is_imported_again(tuneloop: Invoke, store: str, tmp_path: Path) -> None:
    chat = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "6 * 7 ="},
            {"role": "assistant", "content": "42", "reasoning_content": "six sevens"},
        ],
        "reward": 0.25,
        "topic": "sums",
    }
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(chat))
    assert tuneloop("traces", "import", path, "--store", store, "--format", "messages")[0] == 0
    (trace,) = stored(tuneloop, store)
    for name, back in (("trl", "prompt_completion"), ("atif", "atif"), ("axolotl", "messages")):
        _, out, _ = tuneloop("traces", "export", "--store", store, "--limit", 1, "--format", name)
        path.write_text(out)
        assert tuneloop("traces", "import", path, "--store", store, "--format", back)[0] == 0
    assert stored(tuneloop, store) == [trace] * 4
    code, _, err = tuneloop("traces", "export", "--store", store, "--format", "openai")
    assert code == 0
    assert err.splitlines() == [
        f"--format openai does not hold the whole {name} of 4 traces" for name in ("meta", "reward")
    ]
