"""Answers of finished batches survive a kill; a file that was changed counts as absent."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from tests.builders import stage_specs
from tuneloop.history.verification.findings import Findings
from tuneloop.history.verification.resume import verify_batches
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.answering.saved import SavedBatches
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.storage.sealed import sealed

ODD = "täglich 🧮\n\u2028 \x00 \ud800 Answer: 7"
ANSWERS = {3: Generation(ODD, 5, hit_limit=True), 0: Generation("", 0, hit_limit=False)}


def stage_in(folder: Path, attempt: str, **place: int) -> Stage:
    spec = stage_specs()["eval"]
    execution = spec.execution.model_copy(update={"artifacts": str(folder)})
    started = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)
    spec = spec.model_copy(update={"execution": execution})
    return Stage(spec, started_at=started, attempt=attempt, **place)


def saved_in(folder: Path, attempt: str = "b", **place: int) -> SavedBatches:
    return SavedBatches(stage_in(folder, attempt, **place), seconds_per_file=0)


def test_any_text_comes_back_until_it_is_deleted(tmp_path: Path) -> None:
    first = saved_in(tmp_path, "a")
    first.add("k", ANSWERS)
    first.add("l", {1: ANSWERS[0]})
    again = saved_in(tmp_path)
    assert again.find("k", [0, 3]) == ANSWERS and again.find("l", [1]) == {1: ANSWERS[0]}
    assert again.find("k", [0]) is None and again.find("m", [0, 3]) is None
    again.add("m", ANSWERS)
    assert saved_in(tmp_path).find("m", [0, 3]) == ANSWERS
    assert saved_in(tmp_path, shard_index=1, shard_count=3).find("m", [0, 3]) is None
    again.delete()
    assert not list(tmp_path.rglob("*.json"))
    again.delete()


def test_a_file_is_written_at_most_every_second_and_at_the_end(tmp_path: Path) -> None:
    slow = SavedBatches(stage_in(tmp_path, "a"), seconds_per_file=600)
    slow.add("k", ANSWERS)
    slow.add("l", ANSWERS)
    assert not list(tmp_path.rglob("*.json"))
    slow.flush()
    slow.flush()
    assert len(list(tmp_path.rglob("*.json"))) == 1
    assert saved_in(tmp_path).find("l", [0, 3]) == ANSWERS


def test_every_damage_is_found_and_only_the_damaged_file_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = saved_in(tmp_path, "a")
    first.add("k", ANSWERS)
    first.add("l", ANSWERS)
    path, kept = sorted(tmp_path.rglob("*.json"))
    data = path.read_bytes()
    value = json.loads(data)
    foreign = sealed({"fingerprint": "f" * 64, "batches": value["batches"]})
    damages = [data[:n] + bytes([data[n] ^ 1]) + data[n + 1 :] for n in range(0, len(data), 3)]
    damages += [b"", data[:-1], data[:40], b"[]", b"null", b"\xff", b"[" * 100_000]
    damages.append(json.dumps({key: each for key, each in value.items() if key != "seal"}).encode())
    damages.append(json.dumps(foreign).encode())
    for damage in damages:
        if damage.replace(b" ", b"") == data.replace(b" ", b""):
            continue
        path.write_bytes(damage)
        found = saved_in(tmp_path)
        assert found.find("k", [0, 3]) is None, damage
        assert found.find("l", [0, 3]) == ANSWERS
        assert not path.exists() and kept.exists()
        *_, warning = [each.message for each in caplog.records if each.levelname == "WARNING"]
        assert warning.startswith(str(path))
        assert warning.endswith("; its batches are generated again")


def test_verify_names_a_changed_file_of_an_unfinished_evaluation(tmp_path: Path) -> None:
    saved = saved_in(tmp_path, "a")
    saved.add("k", ANSWERS)
    saved.add("l", ANSWERS)
    changed, kept = sorted(tmp_path.rglob("*.json"))
    names = {str(path.relative_to(tmp_path)) for path in (changed, kept)}

    def problems() -> list[str]:
        findings = Findings(str(tmp_path))
        verify_batches(findings, "demo-12345e67", names)
        return [str(each) for each in findings.problems]

    assert problems() == []
    for damage in (b"", b"[]", b"{}", changed.read_bytes().replace(b"Answer: 7", b"Answer: 8")):
        changed.write_bytes(damage)
        (found,) = problems()
        assert changed.name in found and "the next attempt does not use it" in found
