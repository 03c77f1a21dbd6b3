"""Test `tuneloop logs` on simulated pods: live, archived, and both in turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.k8s.logs.pods import JOB, Pods
from tuneloop.artifacts.evaluation.verdict import ArchivedVerdict, Verdict, write_verdict
from tuneloop.errors import Transient
from tuneloop.k8s.logs.archiver import LogArchiver
from tuneloop.k8s.logs.live import PodLogs
from tuneloop.runs.logs.follow import LogLine, StageLog
from tuneloop.storage import files

RUNNING = Verdict("Running", "")
FAILED = Verdict("UserError", "it failed", exit_code=10)


class Stage:
    """One stage on simulated pods; each sleep of a reader is a step of the script."""

    def __init__(self, artifacts: str) -> None:
        self.artifacts = artifacts
        self.prefix = f"{artifacts}/training_runs/r/train"
        self.pods = Pods()
        self.verdict = RUNNING
        self.archiver = LogArchiver(self.pods, self.prefix, JOB)
        self.clock = 0.0

    def open(
        self, *steps: Callable[[], object], live: bool = True, rank: int | None = None
    ) -> StageLog:
        """Return the log; a step is taken at each sleep."""
        script = list(steps)

        def sleep(seconds: float) -> None:
            self.clock += seconds
            self.pods.seconds += seconds
            if script:
                script.pop(0)()

        source = PodLogs(self.pods, JOB, lambda: (self.verdict, self.pods.list_pods()))
        return StageLog(
            self.artifacts,
            "r",
            "train",
            source if live else None,
            rank=rank,
            sleep=sleep,
            clock=lambda: self.clock,
        )

    def archive(self) -> None:
        """Let the supervisor archive what there is."""
        self.pods.seconds += 10
        self.archiver.archive(self.pods.list_pods())

    def publish(self) -> None:
        """Publish the stage's record."""
        files.write(f"{self.prefix}/record.json", b"{}")

    def fail(self) -> None:
        """End the stage without a record."""
        self.verdict = FAILED


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(str(tmp_path))


def shown(lines: object) -> list[str]:
    """Return lines as `rank.attempt text`."""
    found = [each for each in lines if isinstance(each, LogLine)]  # type: ignore[attr-defined]
    return [f"{each.attempt.rank}.{each.number} {each.line.text.decode()}" for each in found]


def test_a_stage_is_followed_across_a_replaced_pod_until_its_record(stage: Stage) -> None:
    pods = stage.pods
    pods.start("a")
    pods.say("a", "one\n", "same\n", "same\n")

    def die() -> None:
        pods.say("a", "two\n", "no end")
        pods.end("a")

    def replace() -> None:
        pods.start("b")
        pods.say("b", "same\n")

    def finish() -> None:
        pods.say("b", "done")
        pods.end("b", 0)

    log = stage.open(lambda: pods.say("a", "same\n"), die, replace, stage.publish, finish)
    assert shown(log.follow()) == [
        *("0.1 one", "0.1 same", "0.1 same", "0.1 same", "0.1 two", "0.1 no end"),
        *("0.2 same", "0.2 done"),
    ]
    assert log.notices() == []


def test_a_pod_that_is_deleted_while_it_is_followed_continues_in_the_archive(stage: Stage) -> None:
    pods = stage.pods
    pods.start("a")
    pods.say("a", "one\n")

    def last_lines() -> None:
        pods.say("a", "one\n", "two\n")
        pods.end("a")
        stage.archive()
        pods.remove("a")

    log = stage.open(last_lines, stage.fail)
    assert shown(log.follow()) == ["0.1 one", "0.1 one", "0.1 two"]


def test_the_archive_comes_first_and_the_kubelet_continues(stage: Stage) -> None:
    pods = stage.pods
    for number in range(40):  # more parts than one round reads
        name = "ab"[number >= 20]
        if number in (0, 20):
            pods.start(name)
        pods.say(name, f"{number}\n", "same\n")
        stage.archive()
        if number == 19:
            pods.end("a")
            stage.archive()
            pods.remove("a")
    pods.say("b", "same\n", "live\n")
    expected = [
        line for n in range(40) for line in (f"0.{1 + (n > 19)} {n}", f"0.{1 + (n > 19)} same")
    ]
    assert shown(stage.open().lines()) == [*expected, "0.2 same", "0.2 live"]
    assert shown(stage.open(live=False).lines()) == expected
    stage.archive()
    stage.publish()
    assert shown(stage.open().follow()) == [*expected, "0.2 same", "0.2 live"]


def test_ranks_are_merged_by_time(stage: Stage) -> None:
    pods = stage.pods
    for rank, name in enumerate("abc"):
        pods.start(name, rank=rank)

    def talk() -> None:
        for number in range(4):
            pods.seconds += 0.01
            pods.say("abc"[number % 3], f"{number}\n")

    expected = ["0.1 0", "1.1 1", "2.1 2", "0.1 3"]
    log = stage.open(talk, talk, stage.fail)
    assert shown(log.follow()) == expected * 2
    assert log.ranks == 3
    assert shown(stage.open().lines()) == expected * 2
    assert shown(stage.open(rank=1).lines()) == ["1.1 1"] * 2
    assert shown(stage.open(rank=7).lines()) == []


def test_a_line_that_is_read_late_is_shown_in_its_place(stage: Stage) -> None:
    """Two pods write at once, but the second one's line is not on its node's disk yet."""
    pods = stage.pods
    pods.start("a")
    pods.start("b", rank=1)
    at = pods.seconds

    def late() -> None:
        now, pods.seconds = pods.seconds, at + 1
        pods.say("b", "early\n")
        pods.seconds = now

    def first() -> None:
        pods.say("a", "later\n")

    assert shown(stage.open(first, late, stage.fail).follow()) == ["1.1 early", "0.1 later"]


def test_an_outage_is_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = stage.pods
    pods.start("a")
    pods.say("a", "one\n")
    stage.archive()

    def break_down() -> None:
        pods.is_out = True
        pods.say("a", "two\n")

    def recover() -> None:
        pods.is_out = False
        pods.say("a", "three\n")

    def store_breaks_down() -> None:
        def refuse(prefix: str) -> list[str]:
            raise Transient("the store answers 503")

        monkeypatch.setattr(files, "list_files", refuse)
        pods.say("a", "four\n")

    steps = (break_down, lambda: None, recover, store_breaks_down, monkeypatch.undo, stage.fail)
    log = stage.open(*steps)
    assert shown(log.follow()) == ["0.1 one", "0.1 two", "0.1 three", "0.1 four"]
    pods.is_out = True
    with pytest.raises(Transient, match="cannot be reached"):
        list(stage.open().lines())


def test_without_a_cluster_the_archive_is_followed_until_a_verdict(stage: Stage) -> None:
    pods = stage.pods

    def second() -> None:
        pods.end("a")
        stage.archive()
        pods.remove("a")
        pods.start("b")
        pods.say("b", "two\n")
        stage.archive()

    def give_up() -> None:
        pods.end("b")
        stage.archive()
        write_verdict(ArchivedVerdict("UserError", "x", at=pods.now().isoformat()), stage.prefix)

    write_verdict(ArchivedVerdict("UserError", "x", at="2026-11-26T00:00:00+00:00"), stage.prefix)
    pods.start("a")
    pods.say("a", "one\n")
    stage.archive()
    log = stage.open(second, give_up, live=False)
    assert shown(log.follow()) == ["0.1 one", "0.2 two"]


def test_what_may_be_missing_is_said(stage: Stage) -> None:
    pods = stage.pods
    pods.start("a")
    pods.say("a", "one\n")
    stage.archive()
    pods.remove("a")
    pods.start("b", rank=1)
    pods.say("b", "two\n")
    stage.archive()

    def rotate() -> None:
        pods.kubelet.container("b").rotate()
        pods.say("b", "three\n")

    log = stage.open(rotate, stage.fail)
    assert shown(log.follow()) == ["0.1 one", "1.1 two", "1.1 three"]
    assert log.notices() == [
        "rank 0, pod a: was deleted before its last lines were read",
        "rank 1, pod b: its node replaced the log file; lines may be missing",
    ]


def test_log_txt_is_read_if_nobody_has_archived_a_log(stage: Stage) -> None:
    files.write(f"{stage.prefix}/log.txt", "one\n🙂\n".encode())
    files.write(f"{stage.prefix}/log-rank-00001.txt", b"other\n")
    log = stage.open(live=False)
    assert log.exists()
    assert shown(log.lines()) == ["1.1 other", "0.1 one", "0.1 🙂"]

    def grow() -> None:
        files.write(f"{stage.prefix}/log.txt", "one\n🙂\ntwo\n".encode())

    def start_again() -> None:
        files.write(f"{stage.prefix}/log.txt", b"one of the next attempt\n")
        stage.publish()

    assert shown(stage.open(grow, start_again, live=False, rank=0).follow()) == [
        *("0.1 one", "0.1 🙂", "0.1 two", "0.1 one of the next attempt"),
    ]
