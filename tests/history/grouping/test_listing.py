"""Sweeps and rounds in lists of runs, in the shell and on the store's page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.builders import Invoke
from tests.history.trees import heartbeat, write_manifest, write_run
from tuneloop.artifacts import layout
from tuneloop.artifacts.evaluation.verdict import ArchivedVerdict, write_verdict
from tuneloop.artifacts.rounds.store import RoundsManifest, RoundsMember, save_rounds
from tuneloop.artifacts.sweeps.store import Member, SweepManifest, save_sweep
from tuneloop.history.grouping.listing import list_groups
from tuneloop.history.listing import RunQuery, list_runs
from tuneloop.storage import files

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ROUNDS, SWEEP = "tiny-rounds-0000000a", "tïny 🟡-sweep-0000000b"


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    """Rounds and a sweep that share a run, a run without a group, and a group that is broken."""
    root = str(tmp_path)
    write_run(root, "start-01")
    write_run(root, "alone-02")
    write_manifest(root, "arm-03")
    heartbeat(root, "arm-03", "export", NOW)
    write_run(root, "other-04", ["export"])
    verdict = ArchivedVerdict("OutOfMemory", "the host ran out", "use less", exit_code=11)
    write_verdict(verdict, layout.stage_prefix(root, "other-04", "train"))
    members = (
        RoundsMember(seed=1, round=0, role="start", run_id="start-01"),
        RoundsMember(seed=1, round=1, role="selected", run_id="arm-03"),
        RoundsMember(seed=1, round=1, role="sft", run_id="deleted-05"),
    )
    rounds = RoundsManifest(
        rounds_id=ROUNDS, settings={}, spec={}, seeds=(1,), count=1, arms=(), members=members
    )
    save_rounds(rounds, root)
    labels = {"start-01": "seed=1", "other-04": "name=<b>\u202e"}
    made = [
        Member(number=number, label=label, values={}, run_id=run_id, chips={})
        for number, (run_id, label) in enumerate(labels.items(), start=1)
    ]
    save_sweep(SweepManifest(sweep_id=SWEEP, settings={}, members=made), root)
    files.write(f"{layout.rounds_prefix(root, 'torn-rounds-0')}/rounds.json", b"{")
    files.write(f"{layout.sweep_prefix(root, 'empty-sweep-0')}/submission.json", b"{}")
    return root


def test_a_run_names_the_groups_that_it_belongs_to(artifacts: str) -> None:
    found = {run.run_id: run.member_of for run in list_runs(artifacts, now=NOW)}
    assert [(each.group, each.place) for each in found["start-01"]] == [
        (SWEEP, "member 1: seed=1"),
        (ROUNDS, "seed 1, start"),
    ]
    assert [each.sentence for each in found["arm-03"]] == [
        f"is seed 1, round 1, selected of rounds {ROUNDS}"
    ]
    assert found["alone-02"] == ()


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (ROUNDS, ["arm-03", "start-01"]),
        ("*-sweep-*", ["other-04", "start-01"]),
        ("none", ["alone-02"]),
        ("torn-*", []),
    ],
)
def test_a_filter_for_groups(artifacts: str, group: str, expected: list[str]) -> None:
    for _ in range(2):
        found = list_runs(artifacts, RunQuery(group=group, sort="name"), now=NOW)
        assert [run.run_id for run in found] == expected


def test_groups_count_the_states_of_their_runs(artifacts: str, tmp_path: Path) -> None:
    found = {each.id: each for each in list_groups(artifacts, now=NOW)}
    assert set(found) == {ROUNDS, SWEEP}
    rounds, sweep = found[ROUNDS], found[SWEEP]
    counts = (rounds.kind, rounds.runs, rounds.finished, rounds.running, rounds.failed)
    assert counts == ("rounds", 3, 1, 1, 0)
    assert (sweep.kind, sweep.runs, sweep.finished, sweep.running, sweep.failed) == (
        *("sweep", 2, 1, 0),
        1,
    )
    assert list_groups(str(tmp_path / "never was"), now=NOW) == []


@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_verbs(
    artifacts: str, tuneloop: Invoke, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    at = ("--artifacts", artifacts)
    code, out, err = tuneloop("runs", "list", "--of", ROUNDS, *at)
    assert code == 0, err
    assert ROUNDS in out
    assert "seed 1, round 1, selected" in " ".join(out.split())
    assert "alone-02" not in out
    assert "\u202e" not in tuneloop("runs", "list", *at)[1]
    code, out, err = tuneloop("runs", "groups", *at)
    assert code == 0, err
    assert out.splitlines()[0].split() == [
        *("id", "kind", "runs", "finished", "running", "failed", "started")
    ]
    (line,) = [line for line in out.splitlines() if line.startswith(ROUNDS)]
    assert line.split()[1:6] == ["rounds", "3", "1", "0", "0"]  # the heartbeat is old by now
    found = json.loads(tuneloop("runs", "groups", *at, "--json")[1])
    assert [each["kind"] for each in found["groups"]] == ["rounds", "sweep"]
    runs = json.loads(tuneloop("runs", "list", *at, "--json")[1])["runs"]
    arm = next(run for run in runs if run["run_id"] == "arm-03")
    place = "seed 1, round 1, selected"
    assert arm["member_of"] == [{"kind": "rounds", "group": ROUNDS, "place": place}]
    code, out, err = tuneloop("runs", "show", "arm-03", *at)
    assert code == 0, err
    assert f"is {place} of rounds {ROUNDS}" in out
