"""100,000 lines at 2,000 lines/s of the node's clock, through restarts: none lost, none twice.

Two processes of a stage write through a simulated kubelet behind a real HTTP server that fails now
and then. Meanwhile the supervisor is killed with SIGKILL and started again, containers and pods are
replaced, and a reader follows with the real client. The writer is faster than its timestamps.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.k8s.client.fake_server import FakeServer, Reply, Request
from tests.k8s.logs.pods import JOB, START, Pods, archived
from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.artifacts.stage_logs.archive import Archive
from tuneloop.artifacts.stage_logs.attempt import list_attempts
from tuneloop.artifacts.stage_logs.lines import NANOSECONDS
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.k8s.logs.live import PodLogs
from tuneloop.runs.logs.follow import LogLine, StageLog

LINES = 100_000
PER_SECOND = 2_000
FAULTS = 0.05
_POD_LOG = re.compile(r"/api/v1/namespaces/n/pods/([^/]+)/log")

Key = tuple[int, str, int]
"""(rank, pod, restarts) of an attempt."""


class ApiServer:
    """Serves LIST of pods, logs and events; one request in twenty fails."""

    def __init__(self, pods: Pods) -> None:
        self.pods = pods
        self._random = random.Random(7)

    def __call__(self, request: Request) -> Reply:
        url = urlsplit(request.path)
        draw = self._random.random()
        if draw < FAULTS:
            faults = (Reply(503, {"message": "busy"}), Reply(500, {"message": "dial tcp: timeout"}))
            return (*faults, Reply(fault="reset"))[int(draw / FAULTS * 3)]
        if found := _POD_LOG.fullmatch(url.path):
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            since = query.get("sinceTime")
            data = self.pods.kubelet.read(
                found[1],
                since=datetime.fromisoformat(since).astimezone(UTC) if since else None,
                previous=query.get("previous") == "true",
                limit_bytes=int(query["limitBytes"]),
            )
            return Reply(404, {"message": "not found"}) if data is None else Reply(body=data)
        items = self.pods.list_pods() if url.path.endswith("/pods") else []
        return Reply(body={"items": items, "metadata": {}})


class Writer:
    """Writes the lines of two ranks, and remembers them by attempt."""

    def __init__(self, pods: Pods, prefix: str) -> None:
        self.pods, self.prefix = pods, prefix
        self.written: dict[Key, list[bytes]] = {}
        self._number = 0
        self._random = random.Random(3)
        self._pods = {0: "a-0", 1: "b-0"}
        self._restarts = {0: 0, 1: 0}
        for rank, name in self._pods.items():
            pods.start(name, rank=rank)

    def write(self, count: int) -> None:
        """Write lines of both ranks in turn.

        48 lines have the same timestamp, and a fifth of them are equal. A batch may end among them.
        """
        batch: dict[int, list[tuple[int, bytes]]] = {0: [], 1: []}
        for _ in range(count):
            rank = self._number % 2
            group = self._number // 48 * 48
            stamp = START + group * NANOSECONDS // PER_SECOND
            text = b"step %d loss \xe2\x9c\x93 " % group
            text += b"." * self._random.randrange(80) if self._number % 10 > 1 else b"same"
            batch[rank].append((stamp, text))
            self._number += 1
        with self.pods.kubelet.lock:
            for rank, lines in batch.items():
                container = self.pods.kubelet.container(self._pods[rank], self._restarts[rank])
                for stamp, text in lines:
                    container.write(stamp, text + b"\n")
                self.written.setdefault(self._key(rank), []).extend(text for _, text in lines)
        self.pods.seconds = self._number / PER_SECOND

    def restart_container(self, rank: int) -> None:
        """End the container in the middle of a line, and start it again in its pod."""
        self._last_words(rank)
        self.pods.restart(self._pods[rank])
        self._restarts[rank] += 1

    def replace_pod(self, rank: int) -> None:
        """End the pod in the middle of a line, and create the pod of the next attempt."""
        self._last_words(rank)
        self.pods.end(self._pods[rank])
        letter, _, number = self._pods[rank].partition("-")
        self._pods[rank], self._restarts[rank] = f"{letter}-{int(number) + 1}", 0
        self.pods.start(self._pods[rank], rank=rank)

    def finish(self) -> None:
        """End both pods."""
        for rank, name in self._pods.items():
            self._last_words(rank)
            self.pods.end(name, 0)

    def remove(self, name: str) -> None:
        """Delete an ended pod as soon as it is archived, as the Job controller may."""
        wanted = {key for key in self.written if key[1] == name}

        def is_archived() -> bool:
            attempts = [each for each in list_attempts(self.prefix) if each.pod == name]
            ends = [Archive(self.prefix, each).end() for each in attempts]
            return len(ends) == len(wanted) and None not in ends

        wait_until(is_archived, f"the logs of {name} are archived")
        self.pods.remove(name)

    def _last_words(self, rank: int) -> None:
        with self.pods.kubelet.lock:
            container = self.pods.kubelet.container(self._pods[rank], self._restarts[rank])
            container.write(START + int(self.pods.seconds * NANOSECONDS), b"no end")
        self.written[self._key(rank)].append(b"no end")

    def _key(self, rank: int) -> Key:
        return rank, self._pods[rank], self._restarts[rank]


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Supervisor:
    """The archiving process, which a test kills and starts again."""

    def __init__(self, kubeconfig: str, prefix: str) -> None:
        command = [sys.executable, "-m", "tests.k8s.logs.supervise", kubeconfig, prefix]
        self._command, self._prefix = command, prefix
        self._start()

    def restart(self) -> None:
        """Kill the process with SIGKILL once it has stored something, and start another one."""
        wait_until(lambda: self._parts() > self._parts_at_start, "the supervisor archives logs")
        self.kill()
        self._start()

    def _start(self) -> None:
        self._parts_at_start = self._parts()
        self.process = subprocess.Popen(self._command)

    def _parts(self) -> int:
        return len(list(Path(self._prefix).glob("logs/*/part-*")))

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
def server(pods: Pods) -> Iterator[FakeServer]:
    with FakeServer(ApiServer(pods)) as server:
        yield server


def run_script(writer: Writer, supervisor: Supervisor) -> None:
    """Write all lines in batches, with a restart of something between some of them."""
    events = {
        20: supervisor.restart,
        30: lambda: writer.restart_container(0),
        45: lambda: writer.replace_pod(1),
        50: supervisor.restart,
        60: lambda: writer.replace_pod(0),
        61: supervisor.restart,
        75: lambda: writer.remove("a-0"),
        80: lambda: writer.replace_pod(1),
        90: lambda: writer.remove("b-0"),
    }
    for batch in range(100):
        writer.write(LINES // 100)
        time.sleep(0.06)
        events.get(batch, lambda: None)()
    writer.finish()


def test_no_line_is_lost_or_shown_twice(pods: Pods, server: FakeServer, tmp_path: Path) -> None:
    kubeconfig = server.kubeconfig(tmp_path, {"token": "t"})
    prefix = str(tmp_path / "training_runs" / "r" / "train")
    writer, supervisor = Writer(pods, prefix), Supervisor(kubeconfig, prefix)
    cluster = Cluster.connect("n", kubeconfig=kubeconfig, retry_seconds=1)
    verdict = [Verdict("Running", "")]
    followed: list[LogLine] = []

    def follow() -> None:
        live = PodLogs(cluster, JOB, lambda: (verdict[0], cluster.find("Pod")))
        log = StageLog(str(tmp_path), "r", "train", live, sleep=lambda _: time.sleep(0.2))
        followed.extend(each for each in log.follow() if each is not None)
        assert log.notices() == []

    reader = threading.Thread(target=follow)
    reader.start()
    try:
        run_script(writer, supervisor)
        for name in list(pods.pods):
            writer.remove(name)
    finally:
        verdict[0] = Verdict("UserError", "it ended", exit_code=10)
        reader.join(60)
        supervisor.kill()
    assert not reader.is_alive()
    written = writer.written
    assert sum(len(lines) for lines in written.values()) == LINES + 6
    assert {
        key: [line.text for line in lines] for key, lines in archived(prefix).items()
    } == written
    assert by_attempt(followed) == written
    again = list(StageLog(str(tmp_path), "r", "train").lines())
    assert by_attempt(again) == written
    stamps = [each.line.stamp for each in again]
    assert stamps == sorted(stamps)


def by_attempt(lines: list[LogLine]) -> dict[Key, list[bytes]]:
    found: dict[Key, list[bytes]] = {}
    for each in lines:
        key = (each.attempt.rank, each.attempt.pod, each.attempt.restart)
        found.setdefault(key, []).append(each.line.text)
    return found
