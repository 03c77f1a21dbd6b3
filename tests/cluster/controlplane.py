"""A Kubernetes control plane of real components for tests, built once and started in seconds.

All components are real, in the versions that controlplane/go.mod pins. The control plane has no
nodes and runs no pods. `python -m tests.cluster.controlplane` builds it in advance.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.gotools import GoFailed, GoTools

MODULE = Path(__file__).with_suffix("")
"""The Go module that pins the components."""

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")

HOW_TO_GET_THEM = (
    "install Go (the version that tests/cluster/controlplane/go.mod names, or any since 1.21, which"
    " fetches it) and run `python -m tests.cluster.controlplane`, or set KUBEBUILDER_ASSETS to a"
    f" folder with {', '.join(COMPONENTS)}, or TUNELOOP_TEST_KUBECONFIG to any cluster's kubeconfig"
)

# Audit policy for requests of service accounts; tests compare the requests with the granted Roles.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}

START_SECONDS = 60.0
"""Start-up takes 4 s on two idle cores; the reserve is for a machine that is busy with builds."""

# Below the range from which Linux assigns ports to clients, so that no outgoing connection can take
# a port between the check and the component's listen().
PORTS = range(20000, 30000)

# A component must not outlive a test process that was killed. Popen(preexec_fn=...) cannot be used,
# because it forks with Python's at-fork hooks, and the warning of JAX's hook is an error in this
# suite. The kernel sends the signal when the thread that started the component ends, so components
# must be started from the main thread.
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class ControlPlaneUnavailable(Exception):
    """There are no cluster, no binaries and no Go to build them; the message says what to do."""


class ControlPlaneError(Exception):
    """A build or a start-up failed; the message ends with the last output of the tools."""


# --- binaries ---------------------------------------------------------------------------------


def kubernetes_version() -> str:
    """Return the pinned version, such as v1.36.3."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text(), re.M)
    assert found, "go.mod does not require k8s.io/kubernetes"
    return found[1]


def ensure_binaries() -> Path:
    """Return the folder with all COMPONENTS: KUBEBUILDER_ASSETS, else the cache; build if needed.

    A KUBEBUILDER_ASSETS folder of envtest is ignored, because it contains neither the controller
    manager nor the scheduler.
    """
    if (given := os.environ.get("KUBEBUILDER_ASSETS")) and _is_complete(Path(given)):
        return Path(given).resolve()
    if not _go_is_new_enough():
        raise ControlPlaneUnavailable(f"found no control plane for the tests; {HOW_TO_GET_THEM}")
    try:
        return _tools().ensure(_finish)
    except GoFailed as e:
        raise ControlPlaneError(str(e)) from e


def _tools() -> GoTools:
    return GoTools(MODULE, "controlplane", _linker_flags())


def _go_is_new_enough() -> bool:
    if shutil.which("go") is None:
        return False
    needed = re.search(r"^go ([\d.]+)$", (MODULE / "go.mod").read_text(), re.M)
    # In the module's folder, a Go that may download toolchains reports the downloaded version.
    found = re.match(r"go([\d.]+)", _tools().go("env", "GOVERSION"))
    assert needed, "go.mod names no Go version"
    return found is None or _numbers(found[1]) >= _numbers(needed[1])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _is_complete(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in COMPONENTS)


def _linker_flags() -> str:
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    # Without these, the server reports v0.0.0, which clients that check the version reject.
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    set_version = (f"-X k8s.io/component-base/version.{name}={values[name]}" for name in values)
    return " ".join(["-s -w", *set_version])


def _finish(building: Path) -> None:
    # Go names a binary after the folder of its package, and etcd's main package is etcd/server/v3.
    (building / "server").rename(building / "etcd")
    if not _is_complete(building):
        raise ControlPlaneError(f"the build left only {sorted(os.listdir(building))}")


# --- a cluster of either kind --------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """A cluster to test against, with full rights."""

    kubeconfig: Path
    kubectl_path: Path
    cache: Path
    control_plane: ControlPlane | None
    """None for the cluster of TUNELOOP_TEST_KUBECONFIG, which has nodes and runs pods."""

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as cluster administrator; with `check`, fail with the output of kubectl."""
        # A separate cache, because kubectl's cache is keyed by address, and ports are reused.
        settings = {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.cache)}
        done = subprocess.run(
            [self.kubectl_path, *arguments],
            env={**os.environ, **settings},
            input=input or "",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done

    def get(self, *arguments: str) -> Any:
        """Return the parsed output of `kubectl get ... -o json`."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json", check=True).stdout)

    def apply(self, *objects: dict[str, Any], options: tuple[str, ...] = ()) -> str:
        """Apply the objects and return the output of kubectl, with warnings of the server first."""
        text = "\n---\n".join(json.dumps(each) for each in objects)
        done = self.kubectl("apply", *options, "-f", "-", input=text, check=True)
        return done.stderr + done.stdout


@contextlib.contextmanager
def open_cluster() -> Iterator[Cluster]:
    """Open the cluster of TUNELOOP_TEST_KUBECONFIG, else start a control plane."""
    if given := os.environ.get("TUNELOOP_TEST_KUBECONFIG"):
        kubectl = shutil.which("kubectl") or ensure_binaries() / "kubectl"
        with tempfile.TemporaryDirectory(prefix="tuneloop-kubectl-") as cache:
            yield Cluster(Path(given).resolve(), Path(kubectl), Path(cache), None)
    else:
        with ControlPlane(ensure_binaries()) as control_plane:
            yield control_plane.cluster


def wait_until(check: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Call `check` every 50 ms until it returns a true value, and return this value."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
    return answer


# --- the test control plane -----------------------------------------------------------------------


class ControlPlane:
    """etcd, API server, controller manager and scheduler on loopback ports, until `with` ends."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="tuneloop-cluster-"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.token = secrets.token_hex(16)
        self._etcd_port, self._port = _free_ports(2)
        self.url = f"https://127.0.0.1:{self._port}"
        self.cluster = Cluster(
            kubeconfig=self.folder / "kubeconfig",
            kubectl_path=binaries / "kubectl",
            cache=self.folder / "kubectl-cache",
            control_plane=self,
        )

    def __enter__(self) -> Self:
        try:
            self._start_all()
        except BaseException as error:
            logs = self.log_tails()
            self.stop()
            if isinstance(error, TimeoutError):
                raise ControlPlaneError(f"no control plane: {error}\n{logs}") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the components and delete their data; a graceful shutdown is not needed."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tails(self, lines: int = 15) -> str:
        """Return the last lines of each component's log."""
        tails = []
        for path in sorted(self.folder.glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            tails.append("\n".join([f"--- {path.name}", *tail]))
        return "\n".join(tails)

    def _start_all(self) -> None:
        self._write_credentials()
        self._start("etcd", *self._etcd_flags())
        self._wait(self._etcd_listens, "etcd listens")
        self._start("kube-apiserver", *self._api_server_flags())
        self._wait(self._is_ready, "/readyz of the API server answers ok")
        self._write_kubeconfig()
        self._start("kube-controller-manager", *self._controller_manager_flags())
        self._start("kube-scheduler", *self._scheduler_flags())
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait(lambda: self._answers(account), "the controller manager made a service account")

    def _start(self, name: str, *flags: str) -> None:
        launcher = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid())]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*launcher, str(self.binaries / name), *flags],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C must reach only pytest, which then stops the components in order.
                start_new_session=True,
            )

    def _wait(self, check: Callable[[], bool], what: str) -> None:
        def check_alive() -> bool:
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            if ended:
                raise ControlPlaneError(f"{', '.join(ended)} ended:\n{self.log_tails()}")
            return check()

        wait_until(check_alive, what, START_SECONDS)

    def audited(self, account: str) -> list[dict[str, Any]]:
        """Return the audit events of answered requests of `NAMESPACE:ACCOUNT`."""
        user = f"system:serviceaccount:{account}"
        events = map(json.loads, (self.folder / "audit.log").read_text().splitlines())
        return [event for event in events if event["user"]["username"] == user]

    def _write_credentials(self) -> None:
        (self.folder / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
        (self.folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        (self.folder / "service-account.key").write_text(_new_signing_key())

    def _etcd_flags(self) -> list[str]:
        client = f"http://127.0.0.1:{self._etcd_port}"
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            "--listen-peer-urls=http://127.0.0.1:0",  # unused, because there is only one member
            "--unsafe-no-fsync",  # the data is deleted afterwards
            "--log-level=warn",
        ]

    def _api_server_flags(self) -> list[str]:
        key = self.folder / "service-account.key"
        return [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self.folder / 'certificates'}",  # where the server creates them
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            f"--audit-policy-file={self.folder / 'audit-policy.json'}",
            f"--audit-log-path={self.folder / 'audit.log'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",  # the server refuses to advertise a loopback address
        ]

    def _controller_manager_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self.cluster.kubeconfig}",
            f"--service-account-private-key-file={self.folder / 'service-account.key'}",
            f"--root-ca-file={self.authority}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=300",  # with the default of 20, the pods of 200 Jobs take 50 s
            "--kube-api-burst=500",
            "--node-monitor-grace-period=24s",  # the default of 50 s makes a test wait longer
        ]

    def _scheduler_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self.cluster.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
        ]

    @property
    def authority(self) -> Path:
        """Return the file with the serving certificate and its authority, made by the server."""
        return self.folder / "certificates" / "apiserver.crt"

    def _write_kubeconfig(self) -> None:
        authority = base64.b64encode(self.authority.read_bytes()).decode()
        server = {"server": self.url, "certificate-authority-data": authority}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.cluster.kubeconfig.write_text(json.dumps(config, indent=2))
        self.cluster.kubeconfig.chmod(0o600)

    def _etcd_listens(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self._etcd_port), timeout=1).close()
            return True
        return False

    def _is_ready(self) -> bool:
        return self.authority.is_file() and self._answers("/readyz")

    def _answers(self, path: str) -> bool:
        """Return whether the API server answers 200, without kubectl, which takes 0.1 s of CPU."""
        try:
            trust = ssl.create_default_context(cafile=str(self.authority))
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self._port, timeout=5, context=trust
            )
            with contextlib.closing(connection):
                connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
                return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def _new_signing_key() -> str:
    """Return a P-256 private key in PEM, without openssl or another package.

    RFC 5915 makes the public key in the file optional, and Go computes it. The file therefore
    consists of fixed bytes around 32 random bytes. The first random byte is small enough for the
    number to be in range.
    """
    number = bytes([secrets.randbelow(0x7F) + 1]) + secrets.token_bytes(31)
    curve = bytes.fromhex("a00a06082a8648ce3d030107")
    der = bytes.fromhex("30310201010420") + number + curve
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_binaries()}\n")
