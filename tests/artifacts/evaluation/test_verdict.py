from __future__ import annotations

import json

import pytest

from tuneloop.artifacts.evaluation.verdict import (
    ArchivedVerdict,
    Verdict,
    read_verdict,
    verdict_url,
    write_verdict,
)
from tuneloop.errors import DataError
from tuneloop.storage import files

PREFIX = "memory://verdicts/training_runs/r-1/export"
ARCHIVED = ArchivedVerdict(
    state="OutOfMemory",
    cause="pod ü: OOMKilled",
    fix="ask for more",
    evidence=("a", "b"),
    exit_code=11,
    at="2026-11-27T00:00:00+00:00",
    workload={"kind": "Job", "spec": {"suspend": None}},
    pods=[{"kind": "Pod"}],
)


def test_it_reads_back_as_it_was_written() -> None:
    write_verdict(ARCHIVED, PREFIX)
    assert read_verdict(PREFIX) == ARCHIVED


def test_the_bytes_are_indented_json_in_the_order_of_the_fields() -> None:
    write_verdict(ARCHIVED, PREFIX)
    data = files.read(verdict_url(PREFIX))
    value = json.loads(data)
    assert data == json.dumps(value, indent=1).encode() + b"\n"
    assert b"\\u00fc" in data
    verdict = ["state", "cause", "fix", "evidence", "exit_code", "about"]
    keys = [*verdict, "at", "workload", "pods", "events", "seal"]
    assert list(value) == keys


def test_none_before_the_first() -> None:
    assert read_verdict("memory://verdicts/none") is None


@pytest.mark.parametrize("data", [b"{}", b"[]", b"not json", b'{"state": 1}', b'{"state":"Odd"}'])
def test_something_else_is_named(data: bytes) -> None:
    files.write(verdict_url("memory://verdicts/torn"), data)
    with pytest.raises(DataError, match=r"torn/verdict\.json: not a verdict \(.*asks the cluster"):
        read_verdict("memory://verdicts/torn")


def test_a_verdict_is_one_sentence() -> None:
    full = Verdict("DataError", "the input is torn", "restore it", exit_code=12)
    assert full.sentence("train") == "stage train: DataError: the input is torn; restore it"
    alone = Verdict("Crashed", "stage train was killed; run again", exit_code=20)
    assert alone.sentence("train") == "stage train was killed; run again"
    assert full.is_final
    assert not Verdict("Running", "").is_final
