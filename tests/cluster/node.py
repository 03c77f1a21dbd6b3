"""A simulated node that runs the pods that the real scheduler binds to it as processes.

It acts as a kubelet of the real API server: it registers a Node, renews its lease, runs the command
of each pod as a process (container.py), reports statuses, handles deletion with grace periods and
active deadlines, and serves logs to the API server.

Not supported: images (`python` is this interpreter, and the working directory is the checkout),
mount and network namespaces, several containers per pod, init containers, probes, limits, and any
restartPolicy except Never. The pod annotation OUTCOME scripts states that a process cannot cause:
{"waiting": {"reason", "message"}}, {"rejected": REASON}, {"oom": true}.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import ssl
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.cluster.api import Api
from tests.cluster.container import Container, NotReady, now
from tests.cluster.controlplane import ControlPlane, wait_until

Object = dict[str, Any]

OUTCOME = "test.tuneloop.dev/outcome"
POLL_SECONDS = 0.1
LEASE_SECONDS = 4.0
CAPACITY = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "200"}


class Node:
    """One simulated node; it exists while the `with` block runs."""

    def __init__(
        self,
        control_plane: ControlPlane,
        name: str,
        *,
        checkout: Path,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._labels, self._resources = dict(labels or {}), dict(resources or {})
        self._env, self._checkout = dict(env or {}), checkout
        self._control_plane = control_plane
        self._folder = Path(tempfile.mkdtemp(prefix="tuneloop-node-"))
        self._containers: dict[str, Container] = {}
        self._reported: dict[str, Object] = {}
        self._rejected: set[str] = set()
        self._mount_events: set[str] = set()
        self._stop = threading.Event()
        self._is_lost = threading.Event()
        self._api = Api(control_plane)
        self._logs = _LogServer(self, control_plane)
        self._thread = threading.Thread(target=self._run, name=f"node-{name}", daemon=True)

    def __enter__(self) -> Self:
        self._logs.start()
        status, answer = self._api.request("POST", "/api/v1/nodes", self._node())
        assert status == 201, answer
        self._renew()
        self._thread.start()
        with contextlib.closing(Api(self._control_plane)) as api:

            def is_untainted() -> bool:
                _, node = api.request("GET", f"/api/v1/nodes/{self.name}")
                return not node["spec"].get("taints")

            wait_until(is_untainted, f"node {self.name} is ready")
        return self

    def __exit__(self, *_: object) -> None:
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(30)
        for container in self._containers.values():
            container.end()
        for pod in self._pods():
            self._force_delete(pod)
        self._api.request("DELETE", f"/api/v1/nodes/{self.name}")
        self._logs.stop()
        self._api.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def processes(self) -> int:
        """Return the number of running containers."""
        return sum(c.started_at != "" and c.exit_code() is None for c in self._containers.values())

    def lose(self) -> None:
        """Stop to act and to report; the processes of the pods go on."""
        self._is_lost.set()

    def container(self, namespace: str, pod: str) -> Container | None:
        """Return the container of a pod, for its log."""
        for found in list(self._containers.values()):
            if (found.namespace, found.pod["metadata"]["name"]) == (namespace, pod):
                return found
        return None

    # --- the node itself -------------------------------------------------------------------------

    def _node(self) -> Object:
        capacity = CAPACITY | self._resources
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a test's"}
        times = {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels | self._labels},
            "status": {
                "capacity": capacity,
                "allocatable": capacity,
                "conditions": [ready | times],
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.port}},
                "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux"} | _NODE_INFO,
            },
        }

    def _renew(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        stamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": stamp}
        lease = {"metadata": {"name": self.name}, "spec": spec}
        status, _ = self._api.request(
            "PATCH", f"{path}/{self.name}", {"spec": spec}, patch="merge-patch"
        )
        if status == 404:
            kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
            self._api.request("POST", path, kind | lease)
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now()}
        self._api.request(
            "PATCH", f"/api/v1/nodes/{self.name}/status", {"status": {"conditions": [ready]}}
        )

    def _run(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(POLL_SECONDS):
            if self._is_lost.is_set():
                continue
            with contextlib.suppress(OSError):  # the control plane may be stopping
                if time.monotonic() - renewed > LEASE_SECONDS:
                    renewed = time.monotonic()
                    self._renew()
                pods = self._pods()
                for pod in pods:
                    self._sync(pod)
                self._forget({pod["metadata"]["uid"] for pod in pods})

    def _pods(self) -> list[Object]:
        _, found = self._api.request(
            "GET", "/api/v1/pods", query={"fieldSelector": f"spec.nodeName={self.name}"}
        )
        items: list[Object] = found.get("items", [])
        return items

    def _forget(self, present: set[str]) -> None:
        for uid in set(self._containers) - present:
            self._containers.pop(uid).end()

    # --- one pod -----------------------------------------------------------------------------

    def _sync(self, pod: Object) -> None:
        """Advance one pod by a step, according to its spec and the state of its process."""
        uid = pod["metadata"]["uid"]
        has_ended = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
        container = self._containers.get(uid)
        if container is None and not has_ended:
            container = self._containers[uid] = Container(
                self._api,
                pod,
                self._folder / uid,
                self._checkout,
                self._env,
                urlsplit(self._control_plane.url).netloc,
            )
            container.folder.mkdir()
        if has_ended or container is None:
            if "deletionTimestamp" in pod["metadata"]:
                self._force_delete(pod)
            return
        code = container.exit_code()
        if code is not None:
            self._report_end(pod, container, code)
        elif "deletionTimestamp" in pod["metadata"]:
            self._end(pod, container)
        elif not container.started_at:
            self._start(pod, container)
        elif self._is_overdue(pod):
            container.stop(pod["spec"].get("terminationGracePeriodSeconds", 30))

    def _end(self, pod: Object, container: Container) -> None:
        if container.started_at:
            container.stop(pod["metadata"].get("deletionGracePeriodSeconds", 30))
        else:
            self._report(pod, "Failed", {})
            self._force_delete(pod)

    def _start(self, pod: Object, container: Container) -> None:
        outcome = json.loads(pod["metadata"].get("annotations", {}).get(OUTCOME, "{}"))
        uid = pod["metadata"]["uid"]
        if reason := outcome.get("rejected"):
            self._report(pod, "Failed", {}, reason=reason, message="a test's node refused the pod")
            return
        if "waiting" in outcome:
            self._report(pod, "Pending", {"waiting": outcome["waiting"]})
            return
        try:
            argv, env = container.prepare()
        except NotReady as e:
            reason = "ContainerCreating" if e.is_mount else "CreateContainerConfigError"
            message = {} if e.is_mount else {"message": str(e)}
            self._report(pod, "Pending", {"waiting": {"reason": reason, **message}})
            if e.is_mount and uid not in self._mount_events:
                self._mount_events.add(uid)
                self._event(pod, "FailedMount", str(e))
            return
        container.start(argv, env)
        self._report(pod, "Running", {"running": {"startedAt": container.started_at}})
        if outcome.get("oom"):
            container.kill(out_of_memory=True)

    def _report_end(self, pod: Object, container: Container, code: int) -> None:
        reason = "OOMKilled" if container.oom_killed else "Error" if code else "Completed"
        ended = {
            "exitCode": code,
            "reason": reason,
            "message": container.message(),
            "startedAt": container.started_at,
            "finishedAt": container.finished_at,
        }
        overdue = {"reason": "DeadlineExceeded"} if self._is_overdue(pod) else {}
        phase = "Failed" if code or overdue else "Succeeded"
        self._report(pod, phase, {"terminated": ended}, **overdue)
        if "deletionTimestamp" in pod["metadata"]:
            self._force_delete(pod)

    def _is_overdue(self, pod: Object) -> bool:
        allowed = pod["spec"].get("activeDeadlineSeconds")
        start = pod.get("status", {}).get("startTime")
        if allowed is None or start is None:
            return False
        return datetime.now(UTC) - datetime.fromisoformat(start) > timedelta(seconds=allowed)

    def _report(self, pod: Object, phase: str, state: Object, **more: str) -> None:
        """Patch the status subresource unless it is already up to date."""
        uid = pod["metadata"]["uid"]
        running = "running" in state
        status: Object = {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": [
                {"type": kind, "status": str(running or kind == "Initialized")}
                for kind in ("Initialized", "ContainersReady", "Ready")
            ],
            **more,
        }
        if state:
            spec = pod["spec"]["containers"][0]
            status["containerStatuses"] = [
                {
                    "name": spec["name"],
                    "image": spec["image"],
                    "imageID": spec["image"],
                    "containerID": f"test://{uid}",
                    "ready": running,
                    "started": running,
                    "restartCount": 0,
                    "state": state,
                }
            ]
        if self._reported.get(uid) == status:
            return
        self._reported[uid] = status
        start = {} if "startTime" in pod.get("status", {}) else {"startTime": now()}
        self._api.request("PATCH", f"{_path(pod)}/status", {"status": {**status, **start}})

    def _force_delete(self, pod: Object) -> None:
        preconditions = {"uid": pod["metadata"]["uid"]}
        body = {"gracePeriodSeconds": 0, "preconditions": preconditions}
        self._api.request("DELETE", _path(pod), {"kind": "DeleteOptions", **body})

    def _event(self, pod: Object, reason: str, message: str) -> None:
        metadata = pod["metadata"]
        about = {"kind": "Pod", "name": metadata["name"], "namespace": metadata["namespace"]}
        path = f"/api/v1/namespaces/{metadata['namespace']}/events"
        event = {
            "metadata": {"generateName": f"{metadata['name']}."},
            "involvedObject": {**about, "uid": metadata["uid"], "apiVersion": "v1"},
            "reason": reason,
            "message": message,
            "type": "Warning",
            "source": {"component": "kubelet", "host": self.name},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        self._api.request("POST", path, event)


_NODE_INFO = {
    **dict.fromkeys(("machineID", "systemUUID", "bootID", "kernelVersion", "osImage"), "test"),
    **dict.fromkeys(("containerRuntimeVersion", "kubeletVersion", "kubeProxyVersion"), "test"),
}


def _path(pod: Object) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


class _LogServer:
    """Serve GET /containerLogs/NAMESPACE/POD/CONTAINER, as a kubelet does for the API server."""

    def __init__(self, node: Node, control_plane: ControlPlane) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                parts = url.path.strip("/").split("/")
                found = node.container(parts[1], parts[2]) if len(parts) == 4 else None
                if found is None or not found.started_at:
                    self.send_error(404)
                    return
                data = _log_text(found, {k: v[-1] for k, v in parse_qs(url.query).items()})
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # By default, the API server does not verify a kubelet's certificate, so its own works.
        context.load_cert_chain(
            control_plane.authority, control_plane.authority.with_suffix(".key")
        )
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _log_text(container: Container, query: dict[str, str]) -> bytes:
    lines = list(container.log)
    if since := query.get("sinceTime"):
        # Without the Z, a second sorts before its fractions.
        lines = [(stamp, line) for stamp, line in lines if stamp >= since.removesuffix("Z")]
    if tail := query.get("tailLines"):
        lines = lines[-int(tail) :] if int(tail) else []
    stamps = query.get("timestamps") in ("true", "1")
    text = b"".join(f"{s} ".encode() + line if stamps else line for s, line in lines)
    return text[: int(query.get("limitBytes", len(text)))]
