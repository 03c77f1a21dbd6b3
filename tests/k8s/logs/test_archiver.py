from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.logs.pods import JOB, Pods, archived, end_of, texts
from tuneloop.artifacts.stage_logs.attempt import list_attempts
from tuneloop.errors import Transient
from tuneloop.k8s.logs import tail
from tuneloop.k8s.logs.archiver import EARLY_SECONDS, READ_SECONDS, LogArchiver
from tuneloop.k8s.logs.attempts import pod_attempts, process_count
from tuneloop.storage import files


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return str(tmp_path / "train")


@pytest.fixture
def archiver(pods: Pods, prefix: str) -> LogArchiver:
    return LogArchiver(pods, prefix, JOB)


def look(archiver: LogArchiver, pods: Pods, seconds: float = READ_SECONDS) -> bool:
    pods.seconds += seconds
    return archiver.archive(pods.list_pods())


def test_a_running_pod_is_archived_line_by_line(
    archiver: LogArchiver, pods: Pods, prefix: str
) -> None:
    pods.start("a")
    pods.say("a", "one\n", "two\n")
    assert not look(archiver, pods)
    pods.say("a", "three\n", "thr")  # the second line has no end yet
    assert not look(archiver, pods)
    assert texts(prefix) == [b"one", b"two", b"three"]
    pods.say("a", "ee\n", "last without an end")
    pods.end("a", 71)
    assert look(archiver, pods)
    assert texts(prefix) == [b"one", b"two", b"three", b"three", b"last without an end"]
    end = end_of(prefix)
    assert (end.complete, end.exit_code, end.reason) == (True, 71, "Error")
    assert end.pod["phase"] == "Failed"


def test_running_pods_are_read_every_few_seconds_and_ended_ones_at_once(
    archiver: LogArchiver, pods: Pods
) -> None:
    pods.start("a")
    pods.say("a", "one\n")
    look(archiver, pods, seconds=EARLY_SECONDS)
    look(archiver, pods, seconds=EARLY_SECONDS)
    early = pods.kubelet.reads
    for _ in range(12):
        look(archiver, pods, seconds=5)
    assert pods.kubelet.reads == early + 6
    archiver.archive(pods.list_pods(), at_once=True)  # it is about to be deleted
    assert pods.kubelet.reads == early + 7
    pods.end("a")
    look(archiver, pods, seconds=0)
    assert pods.kubelet.reads == early + 8
    look(archiver, pods)
    assert pods.kubelet.reads == early + 8  # its archive is complete


def test_a_pod_that_is_deleted_seconds_after_its_start_has_a_log(
    archiver: LogArchiver, pods: Pods, prefix: str
) -> None:
    """Its first lines are stored by the next poll, also if an earlier one found it silent."""
    pods.start("a")
    look(archiver, pods, seconds=1)
    pods.say("a", "stage train of demo-0a1b2c3d, attempt 20261122T112233-064c19\n")
    look(archiver, pods, seconds=5)
    pods.say("a", "no coordinator\n")
    look(archiver, pods, seconds=2)
    pods.remove("a")
    assert look(archiver, pods, seconds=2)
    assert [text.split(b",")[0] for text in texts(prefix)] == [
        b"stage train of demo-0a1b2c3d",
        b"no coordinator",
    ]


def test_a_silent_container_is_read_at_every_poll(archiver: LogArchiver, pods: Pods) -> None:
    pods.start("a")
    for _ in range(20):
        look(archiver, pods, seconds=5)
    assert pods.kubelet.reads == 20


def test_a_restarted_container_and_a_replaced_pod_have_their_own_logs(
    archiver: LogArchiver, pods: Pods, prefix: str
) -> None:
    pods.start("a")
    pods.say("a", "same\n")
    look(archiver, pods)
    pods.say("a", "before the restart\n")
    pods.restart("a")
    pods.say("a", "same\n", restart=1)
    look(archiver, pods)
    pods.end("a")
    look(archiver, pods)
    pods.start("b")
    pods.say("b", "same\n")
    pods.end("b", 0)
    assert look(archiver, pods)
    found = {key: [x.text for x in lines] for key, lines in archived(prefix).items()}
    assert found == {
        (0, "a", 0): [b"same", b"before the restart"],
        (0, "a", 1): [b"same"],
        (0, "b", 0): [b"same"],
    }


def test_a_pod_that_is_deleted_too_early_is_marked(
    archiver: LogArchiver, pods: Pods, prefix: str
) -> None:
    pods.start("a")
    pods.say("a", "one\n")
    look(archiver, pods)
    pods.remove("a")
    assert look(archiver, pods)
    assert texts(prefix) == [b"one"]
    assert not end_of(prefix).complete


def test_a_supervisor_that_starts_again_continues(pods: Pods, prefix: str) -> None:
    pods.start("a")
    pods.start("b", rank=1)
    for number in range(20):
        pods.say("a", f"{number}\n", "same\n", "same\n")
        pods.say("b", f"{number}\n")
        look(LogArchiver(pods, prefix, JOB), pods, seconds=0.7)
    pods.remove("b")
    pods.end("a", 0)
    again = LogArchiver(pods, prefix, JOB)
    look(again, pods)
    assert look(again, pods)
    found = archived(prefix)
    assert [x.text for x in found[0, "a", 0]] == [
        text for number in range(20) for text in (b"%d" % number, b"same", b"same")
    ]
    assert [x.text for x in found[1, "b", 0]] == [b"%d" % number for number in range(20)]
    assert not end_of(prefix, "b").complete


def test_a_pod_that_never_started_has_an_end_without_lines(
    archiver: LogArchiver, pods: Pods, prefix: str
) -> None:
    pods.start("a")
    pods.pods["a"]["status"] = {"phase": "Failed", "reason": "UnexpectedAdmissionError"}
    pods.start("b")["status"] = {"phase": "Pending"}
    assert not look(archiver, pods)
    assert [each.pod for each in list_attempts(prefix)] == ["a"]
    assert end_of(prefix).reason == "UnexpectedAdmissionError"
    assert end_of(prefix).complete


def test_a_lost_node_is_asked_a_few_times(archiver: LogArchiver, pods: Pods, prefix: str) -> None:
    pods.start("a")
    pods.say("a", "one\n")
    look(archiver, pods)
    pods.end("a")
    pods.is_node_gone = True
    reads = pods.kubelet.reads
    asked = [look(archiver, pods, seconds=5) for _ in range(40)]
    assert asked.index(True) == 15  # 0, 5, 10, 20 and 40 seconds after the one before
    assert not end_of(prefix).complete
    assert pods.kubelet.reads == reads


def test_a_kubelet_that_comes_back_is_read_to_the_end(
    archiver: LogArchiver, pods: Pods, prefix: str
) -> None:
    pods.start("a")
    pods.say("a", "one\n")
    pods.end("a")
    pods.is_node_gone = True
    assert [look(archiver, pods) for _ in range(3)] == [False, False, False]
    pods.is_node_gone = False
    assert look(archiver, pods, seconds=40)
    assert texts(prefix) == [b"one"]
    assert end_of(prefix).complete


def test_an_outage_loses_nothing_and_fails_nothing(
    archiver: LogArchiver, pods: Pods, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    pods.start("a")
    pods.say("a", "one\n")
    look(archiver, pods)
    pods.say("a", "two\n")
    listed = pods.list_pods()
    pods.is_out = True
    with caplog.at_level(logging.WARNING):
        pods.seconds += 60
        assert not archiver.archive(listed)
    assert "are not archived: log of Pod: the cluster cannot be reached" in caplog.text
    pods.is_out = False
    pods.say("a", "three\n")
    look(archiver, pods)
    assert texts(prefix) == [b"one", b"two", b"three"]


def test_a_store_that_is_down_gets_the_lines_later(
    archiver: LogArchiver, pods: Pods, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, data: bytes) -> None:
        raise Transient(f"{url}: the store answers 503")

    pods.start("a")
    pods.say("a", "one\n")
    with monkeypatch.context() as patch:
        patch.setattr(files, "create", refuse)
        assert not look(archiver, pods)
        pods.say("a", "two\n")
        pods.end("a", 0)
        assert not look(archiver, pods)
    assert look(archiver, pods)
    assert texts(prefix) == [b"one", b"two"]


def test_a_request_that_fails_in_the_middle_loses_no_line(
    archiver: LogArchiver, pods: Pods, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first response has used its limit, and the second request fails."""
    monkeypatch.setattr(tail, "LIMIT_BYTES", 400)
    pods.start("a")
    for number in range(50):
        pods.seconds += 0.5
        pods.say("a", f"{number}\n")
    read, calls = pods.kubelet.read, [0]

    def flaky(pod: str, **options: Any) -> bytes | None:
        calls[0] += 1
        if calls[0] % 3 == 2:
            raise Transient("reset")
        return read(pod, **options)

    monkeypatch.setattr(pods.kubelet, "read", flaky)
    for _ in range(60):
        look(archiver, pods)
    assert texts(prefix) == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("limit", [200, 5000])
def test_one_second_may_have_more_lines_than_a_response(
    archiver: LogArchiver, pods: Pods, prefix: str, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(tail, "LIMIT_BYTES", limit)
    pods.start("a")
    pods.say("a", "before\n")
    look(archiver, pods)
    pods.say("a", *(f"{number % 7}\n" for number in range(3000)))
    for _ in range(5):
        look(archiver, pods)
    assert texts(prefix) == [b"before", *(b"%d" % (number % 7) for number in range(3000))]


def test_huge_and_broken_lines(archiver: LogArchiver, pods: Pods, prefix: str) -> None:
    """containerd splits the long line, and the kubelet gives its pieces one timestamp."""
    huge, broken = b"x" * 1_000_003, b"\xff\xfe 10%\r 20%\r\x00 \xf0\x9f"
    pods.start("a")
    pods.say("a", huge + b"\n", broken + b"\n")
    look(archiver, pods)
    pods.say("a", b"y" * 40_000)  # not complete, so most of it is in the node's file
    look(archiver, pods)
    look(archiver, pods)
    assert texts(prefix) == [huge, broken]
    pods.say("a", b"z\n")
    look(archiver, pods)
    assert texts(prefix)[2:] == [b"y" * 40_000 + b"z"]


def test_a_rotated_file_is_noticed(archiver: LogArchiver, pods: Pods, prefix: str) -> None:
    pods.start("a")
    pods.say("a", "one\n")
    look(archiver, pods)
    pods.kubelet.container("a").rotate()
    look(archiver, pods)
    pods.say("a", "two\n")
    look(archiver, pods)
    pods.end("a", 0)
    look(archiver, pods)
    assert texts(prefix) == [b"one", b"two"]
    assert end_of(prefix).gaps == ["2026-11-27T00:00:20.000000000Z"]


def test_ranks_of_a_jobset_count_slices_and_hosts() -> None:
    spec = {"replicatedJobs": [{"replicas": 2, "template": {"spec": {"parallelism": 4}}}]}
    workload = {"kind": "JobSet", "spec": spec}
    assert process_count(workload) == 8
    assert process_count({"kind": "Job", "spec": {"completions": 3}}) == 3
    assert process_count(JOB) == 1
    pods = []
    for job_index, host in ((1, 3), (0, 0), (1, 0)):
        labels = {"jobset.sigs.k8s.io/job-index": str(job_index)}
        annotations = {"batch.kubernetes.io/job-completion-index": str(host)}
        metadata = {"name": "p", "labels": labels, "annotations": annotations}
        pods.append({"metadata": metadata})
    assert [each.attempt.rank for each in pod_attempts(pods, workload)] == [0, 4, 7]
    assert [each.attempt.rank for each in pod_attempts([{}, {"metadata": None}], JOB)] == [0, 0]


NAME = "20261128T101500-0a1b2c"


def started(number: int) -> str:
    return f"2026-11-28 10:15:00,{number:03} INFO "


OWN = [
    started(0) + f"stage train of r-1, attempt {NAME}",
    *(started(number) + f"step {number}" for number in range(1, 6)),
]


def test_lines_of_a_pod_that_was_deleted_too_early_come_from_its_own_log(
    archiver: LogArchiver, pods: Pods, prefix: str
) -> None:
    """A JobSet deletes the pods of a gang as soon as one of them fails."""
    pods.start("a")
    pods.say("a", *(f"{line}\n" for line in OWN[:2]), "a line of a C++ library\n")
    look(archiver, pods)
    pods.remove("a")
    files.write(f"{prefix}/attempts/{NAME}/log.txt", "\n".join([*OWN, ""]).encode())
    files.write(f"{prefix}/log.txt", b"of the next attempt\n")
    assert look(archiver, pods)
    wanted = [*OWN[:2], "a line of a C++ library", *OWN[2:]]
    assert texts(prefix) == [line.encode() for line in wanted]
    assert (end_of(prefix).complete, end_of(prefix).own_lines) == (False, 4)


def test_lines_of_a_replaced_file_come_from_the_own_log(
    archiver: LogArchiver, pods: Pods, prefix: str
) -> None:
    pods.start("a")
    pods.say("a", f"{OWN[0]}\n", f"{OWN[1]}\n")
    look(archiver, pods)
    pods.say("a", f"{OWN[2]}\n", f"{OWN[3]}\n")
    pods.kubelet.container("a").rotate()
    pods.say("a", f"{OWN[4]}\n")
    files.write(f"{prefix}/log.txt", "\n".join([*OWN, ""]).encode())
    look(archiver, pods)
    pods.say("a", f"{OWN[5]}\n")
    pods.end("a", 0)
    assert look(archiver, pods)
    assert texts(prefix) == [line.encode() for line in OWN]
    assert end_of(prefix).own_lines == 2
    again = LogArchiver(pods, prefix, JOB)
    assert look(again, pods)
    assert texts(prefix) == [line.encode() for line in OWN]
