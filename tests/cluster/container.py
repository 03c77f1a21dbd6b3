"""Run one container as a process on this machine: environment, mounts, log and exit code.

There are no images and no mount namespaces. A volume is a folder of the node. If an argument or the
value of a variable is a path below a mountPath, the path of the folder replaces the mountPath.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster.api import Api
from tests.cluster.controlplane import DIE_WITH_PARENT

Object = dict[str, Any]
SHARED = "/tmp"
"""Volumes below this path are folders of this machine; tests keep their object storage there."""
_VARIABLE = re.compile(r"\$(\$|\(([A-Za-z_][A-Za-z0-9_.-]*)\))")
_FIELD = re.compile(r"metadata\.(annotations|labels)\['(.+)'\]")


class NotReady(Exception):
    """A volume (`is_mount`) or a variable is not available yet."""

    def __init__(self, message: str, *, is_mount: bool) -> None:
        super().__init__(message)
        self.is_mount = is_mount


def now() -> str:
    """Return the current time in the format of the kubelet."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    """The process of the only container of a pod."""

    def __init__(
        self, api: Api, pod: Object, folder: Path, checkout: Path, env: dict[str, str], address: str
    ) -> None:
        self.pod, self.folder = pod, folder
        self.spec: Object = pod["spec"]["containers"][0]
        self.namespace: str = pod["metadata"]["namespace"]
        self.started_at = self.finished_at = ""
        self.oom_killed = False
        self.log: list[tuple[str, bytes]] = []
        self._api, self._checkout, self._env, self._address = api, checkout, env, address
        self._folders: dict[str, Path] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._kill_at: float | None = None

    # --- settings of the pod -------------------------------------------------------------------

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Prepare volumes, command and environment; raise NotReady while something is missing."""
        volumes = {v["name"]: self._volume(v) for v in self.pod["spec"].get("volumes", [])}
        for mount in self.spec.get("volumeMounts", []):
            if mount["mountPath"] == SHARED:
                continue
            self._folders[mount["mountPath"].rstrip("/")] = volumes[mount["name"]]
        termination = self.folder / "termination-log"
        termination.touch()
        self._folders[self.spec.get("terminationMessagePath", "/dev/termination-log")] = termination
        env = self._environment()
        command = [*self.spec.get("command", []), *self.spec.get("args", [])]
        argv = [self._placed(_expanded(word, env)) for word in command]
        if argv[0] == "python":
            argv[0] = sys.executable
        return argv, {name: self._placed(value) for name, value in env.items()}

    def _volume(self, volume: Object) -> Path:
        folder = self.folder / "volumes" / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            self._write(folder, "configmap", volume["configMap"]["name"], volume["name"])
        elif "secret" in volume:
            self._write(folder, "secret", volume["secret"]["secretName"], volume["name"])
        for source in volume.get("projected", {}).get("sources", []):
            if "serviceAccountToken" in source:
                (folder / "token").write_text(self._token())
            elif "configMap" in source:
                self._write(folder, "configmap", source["configMap"]["name"], volume["name"])
            elif "downwardAPI" in source:
                for item in source["downwardAPI"]["items"]:
                    value = self._field(item["fieldRef"]["fieldPath"])
                    (folder / item["path"]).write_text(value)
        return folder

    def _write(self, folder: Path, kind: str, name: str, volume: str) -> None:
        try:
            data = self._data(kind, name)
        except NotReady as e:
            said = f'MountVolume.SetUp failed for volume "{volume}" : {e}'
            raise NotReady(said, is_mount=True) from e
        for key, value in data.items():
            (folder / key).write_bytes(value)

    def _data(self, kind: str, name: str) -> dict[str, bytes]:
        path = f"/api/v1/namespaces/{self.namespace}/{kind}s/{name}"
        status, found = self._api.request("GET", path)
        if status != 200:
            raise NotReady(f'{kind} "{name}" not found', is_mount=False)
        data: dict[str, str] = found.get("data", {})
        if kind == "secret":
            return {key: base64.b64decode(value) for key, value in data.items()}
        binary: dict[str, str] = found.get("binaryData", {})
        return {key: value.encode() for key, value in data.items()} | {
            key: base64.b64decode(value) for key, value in binary.items()
        }

    def _token(self) -> str:
        account = self.pod["spec"].get("serviceAccountName", "default")
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        metadata = self.pod["metadata"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"]}
        body = {"spec": {"boundObjectRef": {**bound, "uid": metadata["uid"]}}}
        status, found = self._api.request("POST", path, body)
        if status != 201:
            raise NotReady(f"no token: {found.get('message')}", is_mount=True)
        token: str = found["status"]["token"]
        return token

    def _environment(self) -> dict[str, str]:
        host, port = self._address.rsplit(":", 1)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            "TUNELOOP_TERMINATION_LOG": "/dev/termination-log",
        }
        for source in self.spec.get("envFrom", []):
            kind = "configmap" if "configMapRef" in source else "secret"
            reference = source.get("configMapRef") or source["secretRef"]
            env |= {k: v.decode() for k, v in self._data(kind, reference["name"]).items()}
        for each in self.spec.get("env", []):
            value = self._value(each)
            if value is not None:
                env[each["name"]] = _expanded(value, env)
        return {**env, **self._env}

    def _value(self, variable: Object) -> str | None:
        """Return the value of a variable; None if its source is optional and missing."""
        source = variable.get("valueFrom")
        if source is None:
            return str(variable.get("value", ""))
        if "fieldRef" in source:
            return self._field(source["fieldRef"]["fieldPath"])
        kind = "configmap" if "configMapKeyRef" in source else "secret"
        reference = source.get("configMapKeyRef") or source["secretKeyRef"]
        try:
            return self._data(kind, reference["name"])[reference["key"]].decode()
        except (NotReady, KeyError):
            if reference.get("optional"):
                return None
            raise

    def _field(self, path: str) -> str:
        if found := _FIELD.fullmatch(path):
            return str(self.pod["metadata"].get(found[1], {}).get(found[2], ""))
        value: Any = self.pod
        for part in path.split("."):
            value = value[part]
        return str(value)

    def _placed(self, text: str) -> str:
        for mount in sorted(self._folders, key=len, reverse=True):
            if text == mount or text.startswith(f"{mount}/"):
                return f"{self._folders[mount]}{text[len(mount) :]}"
        return text

    # --- the process ---------------------------------------------------------------------------

    def start(self, argv: list[str], env: dict[str, str]) -> None:
        """Start the process and a thread that reads its log."""
        launcher = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid())]
        self._process = subprocess.Popen(
            [*launcher, *argv],
            cwd=self.spec.get("workingDir", self._checkout),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.started_at = now()
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                stamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
                self.log.append((stamp, line))

    def stop(self, grace_seconds: float) -> None:
        """Send SIGTERM now and SIGKILL after the grace period; further calls have no effect."""
        if self._process is not None and self._kill_at is None:
            self._kill_at = time.monotonic() + grace_seconds
            self._process.terminate()

    def kill(self, *, out_of_memory: bool = False) -> None:
        """Send SIGKILL to all processes of the container."""
        self.oom_killed = out_of_memory
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill the container, and wait for its processes and its log to end."""
        self.kill()
        if self._process is not None:
            self._process.wait()
        if self._reader is not None:
            self._reader.join(5)

    def exit_code(self) -> int | None:
        """Return the exit code as a kubelet does (128 + signal); None while the process runs."""
        if self._process is None:
            return None
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self.kill()
        code = self._process.poll()
        if code is None:
            return None
        if not self.finished_at:
            self.finished_at = now()
            if self._reader is not None:
                self._reader.join(2)
        return code if code >= 0 else 128 - code

    def message(self) -> str:
        """Return the termination message, or the end of the log if a failed container has none."""
        written = (self.folder / "termination-log").read_bytes()[:4096]
        if written or self.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return written.decode("utf-8", "replace")
        tail = b"".join(line for _, line in self.log[-80:])
        return tail[-2048:].decode("utf-8", "replace")


def _expanded(text: str, env: dict[str, str]) -> str:
    """Expand $(NAME) as the kubelet does: unknown names are kept, and $$ is a dollar sign."""

    def value(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return env.get(found[2], found[0])

    return _VARIABLE.sub(value, text)
