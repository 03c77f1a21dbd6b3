"""Test one round with the real stages, killed in the middle and continued."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.builders import Invoke, letter_trace, publish_dataset
from tests.runs.rounds.kill import kill, make, rounds_of, start
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.rounds.store import find_rounds, read_selection
from tuneloop.runs.reports.samples import read_samples

DEADLINE_SECONDS = 240.0


def test_a_round_that_is_killed_goes_on_with_what_is_done(tmp_path: Path, tuneloop: Invoke) -> None:
    """The trace store is not needed, and the random control is not trained, to save time.

    The dataset is chat, so the model learns to write its reasoning in a block of `<think>`.
    """
    run = make(tmp_path, count=1, arms=["selected"])
    chats = [letter_trace(number) for number in range(104)]
    publish_dataset(run.artifacts, chats, dataset_name="chats", recipe="chat_v1")
    run.change(dataset="chats-v1", rounds__sample__prompts__dataset="chats-v1")
    process = start(run)
    until = time.monotonic() + DEADLINE_SECONDS
    folder = Path(layout.all_rounds_prefix(run.artifacts))
    while not (folder.exists() and _has_started(run.artifacts)):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    kill(process, with_stage=True)

    code, out, err = tuneloop("run", run.spec_path, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert [row["state"] for row in report["runs"]] == ["done"] * 3
    assert "the rounds have no arm random" in report["sentences"][0]
    manifest = rounds_of(run.artifacts)
    first, sampled, selected = manifest.members
    attempts = Path(layout.stage_prefix(run.artifacts, first.run_id, "train"), "attempts")
    assert len(list(attempts.iterdir())) == 1
    assert (sampled.base, selected.base) == (first.run_id, first.run_id)
    chosen = read_selection(run.artifacts, manifest.rounds_id, 1, 1)
    assert chosen is not None
    assert chosen.samples == 48
    assert 0 < chosen.selected == chosen.samples - chosen.unusable - chosen.repeated
    record = records.find(run.artifacts, selected.run_id, "export")
    assert record is not None
    assert record.counts["traces"] == chosen.selected
    found = examples_of(run.artifacts, record)
    assert all("Answer:" not in each["response"] for each in found)
    thinking = [each for each in found if each["response"].startswith("<think>\n")]
    assert thinking and all("\n</think>\n\n" in each["response"] for each in thinking)
    evaluated = read_samples(run.artifacts, selected.run_id).samples
    assert any("</think>" in each.text for each in evaluated)
    assert all("think>" not in (each.score.answer or "") for each in evaluated)


def examples_of(artifacts: str, record: Record) -> list[dict[str, Any]]:
    """Return the training examples of an export."""
    return [
        json.loads(line)
        for file in record.outputs_like("examples-")
        for line in records.read_output(file, artifacts).splitlines()
    ]


def _has_started(artifacts: str) -> bool:
    """Return whether the sample stage of the only round is at work."""
    folder = Path(layout.all_rounds_prefix(artifacts))
    for each in folder.iterdir():
        manifest = find_rounds(artifacts, each.name)
        member = manifest.member(1, 1, "sample") if manifest else None
        if member is not None:
            return Path(layout.stage_prefix(artifacts, member.run_id, "sample")).exists()
    return False
