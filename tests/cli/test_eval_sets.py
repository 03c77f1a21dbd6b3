"""`tuneloop eval-sets score`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import Invoke

SET: list[dict[str, object]] = [
    {"id": "a", "prompt": "13 + 4 =", "expected_answer": "17", "category": "sums"},
    {"id": "b", "prompt": "How far?", "expected_answer": "5", "category": "units",
     "scorer": {"kind": "numeric", "unit": "km"}},
    {"id": "c", "prompt": "Rome?\nA) yes\nB) no", "expected_answer": "A", "category": "choice",
     "scorer": "choice"},
    {"id": "d" * 60, "prompt": "?", "expected_answer": "y", "category": "c"},
]  # fmt: skip
ANSWERS: list[dict[str, object]] = [
    {"id": "b", "completion": "Reasoning:\n1. far\nAnswer: 5000 m"},
    {"id": "a", "completion": "<think>Answer: 17</think>It is 17.\nThe answer is 17."},
    {"id": "c", "completion": "Perhaps", "hit_limit": True},
]


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "set.jsonl").write_text(lines(SET))
    (tmp_path / "answers.jsonl").write_text(lines(ANSWERS))
    return str(tmp_path / "set.jsonl"), str(tmp_path / "answers.jsonl")


def test_json_holds_each_item_and_all_denominators(
    tuneloop: Invoke, files: tuple[str, str]
) -> None:
    code, out, err = tuneloop("eval-sets", "score", *files, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [(row["id"][:1], row["state"], row["lenient"]["state"]) for row in found["items"]] == [
        ("a", "no_answer", "correct"),
        ("b", "correct", "correct"),
        ("c", "truncated", "truncated"),
        ("d", "no_answer", "no_answer"),
    ]
    assert found["items"][1]["answer"] == "5000 m"
    assert found["items"][3]["explanation"] == "the file has no answer for the item"
    assert found["summary"] == {
        "items": 4,
        "missing": 1,
        "value": 0.25,
        "states": {"correct": 1, "wrong": 0, "no_answer": 2, "truncated": 1, "error": 0},
        "lenient_value": 0.5,
        "lenient_states": {"correct": 2, "wrong": 0, "no_answer": 1, "truncated": 1, "error": 0},
    }


def test_the_table_fits_80_columns(
    tuneloop: Invoke, files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = tuneloop("eval-sets", "score", *files)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "1 of 4 items have no answer in the file" in out
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("b ")] == [
        ["b", "correct"]
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "z", "completion": "x"}, "the set has no item with id 'z', expected ids of the"),
        ({"id": "a", "completion": "x"}, "id 'a' is already on line 2, expected one answer per"),
        ({"id": "a"}, "completion is missing, expected id and completion; add it"),
        ({"id": "a", "completion": 5}, "completion is 5, expected text; fix the line"),
        ({"id": "a", "completion": "x", "text": ""}, "text is an unknown key, expected id, compl"),
        ({"id": "a", "completion": "", "hit_limit": 1}, "hit_limit is 1, expected true or false"),
    ],
)
def test_wrong_lines_are_refused(
    tuneloop: Invoke, files: tuple[str, str], line: dict[str, object], message: str
) -> None:
    with open(files[1], "a") as file:
        file.write(json.dumps(line))
    code, _, err = tuneloop("eval-sets", "score", *files)
    assert code == 12
    assert f"answers.jsonl:4: {message}" in err


@pytest.mark.parametrize(
    ("scorer", "code", "message"),
    [
        ("guess", 2, "--scorer 'guess' is unknown, expected one of: choice, code, contains"),
        ('{"kind": "numeric", "x": 1}', 2, "--scorer.x is an unknown key, expected only keys of"),
        ("{", 2, "--scorer {: not JSON"),
        ("none.py", 2, "none.py: no such file, expected a Python file with a scorer"),
        ("code", 3, "scorer code runs programs that a model wrote and is not allowed"),
    ],
)
def test_wrong_scorers_are_refused(
    tuneloop: Invoke, files: tuple[str, str], scorer: str, code: int, message: str
) -> None:
    found, _, err = tuneloop("eval-sets", "score", *files, "--scorer", scorer)
    assert (found, message in err) == (code, True), err


def test_a_users_file_scores_and_may_read_the_whole_text(
    tuneloop: Invoke, files: tuple[str, str]
) -> None:
    scorer = Path(files[0]).with_name("mine.py")
    scorer.write_text(
        "READS = 'text'\n"
        "def score(completion, item):\n"
        "    return {'value': 0.5, 'answer': completion[-3:], 'explanation': item.id}\n"
    )
    code, out, _ = tuneloop("eval-sets", "score", *files, "--scorer", str(scorer), "--json")
    first = json.loads(out)["items"][0]
    assert code == 0
    assert (first["state"], first["value"], first["answer"], first["explanation"]) == (
        "wrong", 0.5, "17.", "a",
    )  # fmt: skip


def test_code_runs_where_it_is_allowed(tuneloop: Invoke, files: tuple[str, str]) -> None:
    Path(files[1]).write_text(json.dumps({"id": "a", "completion": "print(13 + 4)"}))
    code, out, _ = tuneloop(
        "eval-sets", "score", *files, "--scorer", "code", "--allow", "code", "--json"
    )
    assert code == 0
    assert json.loads(out)["items"][0]["state"] == "correct"


def test_a_recipe_may_be_none(tuneloop: Invoke, files: tuple[str, str]) -> None:
    Path(files[1]).write_text(json.dumps({"id": "a", "completion": "17"}))
    code, out, _ = tuneloop("eval-sets", "score", *files, "--recipe", "none", "--json")
    assert (code, json.loads(out)["items"][0]["state"]) == (0, "correct")
    code, _, err = tuneloop("eval-sets", "score", *files, "--recipe", "x")
    assert code == 2
    assert "--recipe x: unknown, expected one of answer_only_v1, " in err
