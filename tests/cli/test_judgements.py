"""Labels, agreement and scores from the shell, on a real store."""

from __future__ import annotations

import json
from pathlib import Path

from tests.builders import Invoke
from tests.store.requests import Make
from tuneloop.traces.client import TraceClient


def test_label_list_and_agree(tuneloop: Invoke, store_url: str, make_trace: Make) -> None:
    with TraceClient(store_url) as client:
        ids = client.post_batch([make_trace(n) for n in range(4)], "k")
    at = ("--store", store_url)
    for who, values in (
        ("ada", ("accept", "reject", "accept")),
        ("بوب", ("accept", "reject", "skip")),
    ):
        for trace_id, value in zip(ids, values, strict=False):
            code, out, _ = tuneloop("traces", "label", trace_id, value, "--who", who, *at)
            assert (code, out) == (0, f"{trace_id}: review is {value!r} by {who}\n")
    code, out, _ = tuneloop(
        *("traces", "label", ids[3], "0.5", "--json-value", "--name", "style", "--who", "ada"),
        *("--reason", "so", "--json", *at),
    )
    assert (code, json.loads(out)["value"], json.loads(out)["reason"]) == (0, 0.5, "so")
    code, out, _ = tuneloop("traces", "labels", "--who", "ada", *at)
    found = [json.loads(line) for line in out.splitlines()]
    assert [(one["trace_id"], one["name"]) for one in found] == [
        *((one, "review") for one in ids[:3]),
        (ids[3], "style"),
    ]
    _, out, _ = tuneloop("traces", "labels", ids[0], *at)
    assert [json.loads(line)["who"] for line in out.splitlines()] == ["ada", "بوب"]
    code, out, _ = tuneloop("traces", "agreement", *at)
    assert (code, out) == (
        0,
        "ada and بوب: 2 traces, 2 with the same label, Krippendorff's alpha 1.00\n"
        "all 2 reviewers: 2 traces with labels of at least two of them, Krippendorff's alpha"
        " 1.00\n",
    )
    _, out, _ = tuneloop("traces", "agreement", "--name", "style", "--json", *at)
    assert json.loads(out) == {"pairs": [], "group": None, "is_cut": False}
    code, _, err = tuneloop("traces", "label", ids[0], "x", "--json-value", "--who", "a", *at)
    assert (code, "not JSON" in err) == (2, True)
    code, _, err = tuneloop("traces", "label", ids[0], "accept", *at)
    assert (code, "who is missing" in err) == (12, True)
    code, _, err = tuneloop("traces", "labels", "../datasets", *at)
    assert code == 12


def test_score_the_store_and_a_dataset(
    tuneloop: Invoke, store_url: str, make_trace: Make, artifacts: Path, tmp_path: Path
) -> None:
    answers = ("1", "2 ", "7", "4")
    traces = [
        make_trace(
            n, final_answer=answer, meta={"source": "s", **({} if n else {"expected_answer": 1})}
        )
        for n, answer in enumerate(answers)
    ]
    items = [
        {
            "id": f"q{n}",
            "prompt": f"What is {n} + 1?",
            "expected_answer": str(n + 1),
            "category": "x",
        }
        for n in (1, 2)
    ]
    eval_set = tmp_path / "set.jsonl"
    eval_set.write_text("".join(json.dumps(item) + "\n" for item in items))
    with TraceClient(store_url) as client:
        ids = client.post_batch(traces, "k")
        client.build_dataset({"dataset_name": "d", "dataset_version": "v1"})
    out_file = tmp_path / "scores.jsonl"
    score = ("traces", "score", "--scorer", "numeric", "--expected", eval_set, "--store", store_url)
    code, out, err = tuneloop(*score, "--source", "s", "-o", out_file)
    assert (code, err) == (0, "")
    assert out == (
        "4 traces, 3 scored, mean score 0.667: 2 correct, 1 no_expected_answer, 1 wrong\n"
    )
    rows = [json.loads(line) for line in out_file.read_text().splitlines()]
    assert [(row["trace_id"], row["score"]) for row in rows] == [
        (ids[3], None),
        (ids[2], 0),
        (ids[1], 1),
        (ids[0], 1),
    ]
    with TraceClient(store_url) as client:
        for _ in range(2):  # Scoring again stores nothing again.
            (stored,) = client.send("GET", f"/api/traces/{ids[2]}/scores")["data"]
            assert (stored["criteria"], stored["score"]) == ("numeric", 0)
            assert stored["details"]["answer"] == "7"
            assert tuneloop(*score, "--source", "s")[0] == 0
    of_dataset = (*score, "--dataset", "d-v1", "--artifacts", artifacts, "--criteria", "mine")
    code, out, _ = tuneloop(*of_dataset, "--json")
    assert (code, json.loads(out)) == (
        0,
        {
            "traces": 4,
            "scored": 3,
            "mean": 2 / 3,
            "states": {"correct": 2, "no_expected_answer": 1, "wrong": 1},
            "stored": 3,
            "unknown": 0,
        },
    )
    _, out, _ = tuneloop(*of_dataset, "--dry-run", "--limit", "1", "--json")
    assert json.loads(out)["stored"] == 0
    code, _, err = tuneloop(*score, "--source", "nobody")
    assert (code, "no trace was found" in err) == (12, True)
    code, _, err = tuneloop("traces", "score", "--scorer", "nothing", "--store", store_url)
    assert (code, "--scorer" in err) == (2, True)
    code, _, err = tuneloop("traces", "score", "--scorer", "code", "--store", store_url)
    assert (code, "is not allowed" in err) == (3, True)
