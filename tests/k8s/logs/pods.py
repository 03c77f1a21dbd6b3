"""Pods of one Job on a simulated node: their objects and their logs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.k8s.logs.kubelet import Kubelet
from tests.k8s.twin import Twin
from tuneloop.artifacts.stage_logs.archive import Archive, parts_of
from tuneloop.artifacts.stage_logs.attempt import list_attempts
from tuneloop.artifacts.stage_logs.lines import NANOSECONDS, Line
from tuneloop.errors import Transient

JOB: dict[str, Any] = {"kind": "Job", "metadata": {"name": "j"}, "spec": {}}
START = int(datetime(2026, 11, 27, tzinfo=UTC).timestamp()) * NANOSECONDS
"""Start of the clock of `Twin`."""


class Pods(Twin):
    """A namespace with pods that tests create, end and delete themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.kubelet = Kubelet()
        self.pods: dict[str, dict[str, Any]] = {}
        self.is_out = False
        """Whether the API server answers no request."""
        self.is_node_gone = False
        """Whether the API server cannot reach the kubelet."""

    def start(self, name: str, *, rank: int = 0) -> dict[str, Any]:
        """Create a pod and start its container."""
        created = (datetime(2026, 11, 27, tzinfo=UTC) + timedelta(seconds=self.seconds)).isoformat()
        pod: dict[str, Any] = {
            "kind": "Pod",
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "creationTimestamp": created,
                "labels": {"batch.kubernetes.io/job-completion-index": str(rank)},
            },
            "status": {"phase": "Running"},
        }
        self._set_state(pod, {"running": {}}, 0)
        self.pods[name] = pod
        self.kubelet.container(name)
        return pod

    def end(self, name: str, code: int = 1) -> None:
        """End the container of a pod."""
        pod = self.pods[name]
        restart = pod["status"]["containerStatuses"][0]["restartCount"]
        self.kubelet.container(name, restart).end(START + int(self.seconds * NANOSECONDS))
        pod["status"]["phase"] = "Failed" if code else "Succeeded"
        self._set_state(pod, {"terminated": {"exitCode": code, "reason": "Error"}}, restart)

    def restart(self, name: str) -> None:
        """Start the container of a pod again in the same pod."""
        self.end(name)
        pod = self.pods[name]
        last = pod["status"]["containerStatuses"][0]
        pod["status"]["phase"] = "Running"
        self._set_state(pod, {"running": {}}, last["restartCount"] + 1)
        pod["status"]["containerStatuses"][0]["lastState"] = last["state"]
        self.kubelet.container(name, last["restartCount"] + 1)

    def say(self, name: str, *texts: str | bytes, restart: int = 0) -> None:
        """Write lines now, or a part of a line if the text does not end with a newline."""
        stamp = START + int(self.seconds * NANOSECONDS)
        for text in texts:
            data = text.encode() if isinstance(text, str) else text
            self.kubelet.container(name, restart).write(stamp, data)

    def remove(self, name: str) -> None:
        """Delete a pod with its logs."""
        del self.pods[name]
        with self.kubelet.lock:
            for key in [key for key in self.kubelet.containers if key[0] == name]:
                del self.kubelet.containers[key]

    def list_pods(self) -> list[dict[str, Any]]:
        """Return the pods as a LIST does."""
        if self.is_out:
            raise Transient("list Pod: the cluster cannot be reached")
        return list(self.pods.values())

    def pod_log(
        self,
        pod: str,
        *,
        container: str = "main",
        since: datetime | None = None,
        previous: bool = False,
        limit_bytes: int = 1_000_000,
    ) -> bytes | None:
        if self.is_out:
            raise Transient("log of Pod: the cluster cannot be reached")
        if self.is_node_gone:
            return None
        return self.kubelet.read(pod, since=since, previous=previous, limit_bytes=limit_bytes)

    @staticmethod
    def _set_state(pod: dict[str, Any], state: dict[str, Any], restart: int) -> None:
        pod["status"]["containerStatuses"] = [
            {"name": "main", "restartCount": restart, "state": state}
        ]


def archived(prefix: str) -> dict[tuple[int, str, int], list[Line]]:
    """Return the archived lines: (rank, pod, restart) -> lines."""
    found = {}
    for attempt in list_attempts(prefix):
        archive = Archive(prefix, attempt)
        lines = [line for name in parts_of(archive.names()) for line in archive.read_part(name)]
        found[attempt.rank, attempt.pod, attempt.restart] = lines
    return found


def texts(prefix: str, pod: str = "a", restart: int = 0) -> list[bytes]:
    """Return the archived texts of one container."""
    return [line.text for line in archived(prefix)[0, pod, restart]]


def end_of(prefix: str, pod: str = "a") -> Any:
    """Return how a pod ended, according to the archive."""
    (attempt,) = (each for each in list_attempts(prefix) if each.pod == pod)
    return Archive(prefix, attempt).end()
