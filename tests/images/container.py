"""Run a container of a built image with runc, under the restrictions of manifests/k8s/pod.yaml.

The root file system is read-only. The user is 10001, without capabilities. The container has its
own process and network namespaces, with only a loopback interface, unless a test asks for the
network of the host. `/tmp` and the cache are writable, like the volumes of the pod. The command is
process 1.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneloop.k8s.rendering.pod import WRITABLE

Config = dict[str, Any]
RUNC = "/usr/sbin/runc"


def command(*argv: str, **options: Any) -> str:
    """Run a program and return its output."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stderr[-4000:]}"
    return done.stdout


@dataclass(frozen=True)
class Image:
    """A mounted image in buildah's storage."""

    name: str
    root: Path
    config: Config
    """Configuration as in docker: User, Env, Cmd, WorkingDir, Labels, Healthcheck."""
    layers: list[str]
    """Digests of the uncompressed layers."""
    size_bytes: int

    @property
    def env(self) -> dict[str, str]:
        """Return the environment variables that the image sets."""
        return dict(line.split("=", 1) for line in self.config["Env"])


@contextlib.contextmanager
def mounted(name: str) -> Iterator[Image]:
    """Mount an image's file system."""
    found = json.loads(command("buildah", "inspect", "--type", "image", name))
    listed = json.loads(command("buildah", "images", "--json"))
    (size,) = (each["size"] for each in listed if f"localhost/{name}" in (each["names"] or []))
    container = command("buildah", "from", "--pull-never", name).strip()
    try:
        root = Path(command("buildah", "mount", container).strip())
        docker = found["Docker"]
        yield Image(name, root, docker["config"], docker["rootfs"]["diff_ids"], _bytes(size))
    finally:
        command("buildah", "rm", container)


def _bytes(size: str | int) -> int:
    """Convert a size that buildah prints, such as `393 MB`, to bytes."""
    if isinstance(size, int):
        return size
    number, unit = size.split()
    return int(float(number) * {"KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()])


@dataclass(frozen=True)
class Container:
    """A container bundle that runc can start."""

    folder: Path
    name: str

    def argv(self) -> list[str]:
        """Return the command that runs the container and has its exit code."""
        return [
            RUNC,
            "--root",
            str(self.folder / "state"),
            "run",
            "--bundle",
            str(self.folder),
            self.name,
        ]

    def run(self, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the container until it ends."""
        return subprocess.run(
            self.argv(), capture_output=True, text=True, timeout=timeout, check=False
        )

    def start(self) -> subprocess.Popen[str]:
        """Start the container; `kill` sends signals to its process 1."""
        return subprocess.Popen(
            self.argv(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def kill(self, signal: str) -> None:
        """Send a signal to process 1, as the kubelet does."""
        command(RUNC, "--root", str(self.folder / "state"), "kill", self.name, signal)

    def execute(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run another process in the container, like a health check."""
        runc = [RUNC, "--root", str(self.folder / "state"), "exec", self.name, *argv]
        return subprocess.run(runc, capture_output=True, text=True, timeout=60, check=False)


def container(
    image: Image,
    folder: Path,
    argv: Sequence[str] = (),
    *,
    env: Mapping[str, str] | None = None,
    volumes: Mapping[Path, str] | None = None,
    on_host_network: bool = False,
) -> Container:
    """Write the bundle of a container.

    Args:
        image: image of the container.
        folder: folder for the bundle, its state, and the folders used as empty volumes.
        argv: command; by default the command of the image.
        env: environment variables in addition to those of the image.
        volumes: folder on this machine -> writable mount point.
        on_host_network: let the container reach the servers of this machine.
    """
    folder.mkdir(parents=True)
    command(RUNC, "spec", cwd=folder)
    config = json.loads((folder / "config.json").read_text())
    uid, gid = map(int, image.config["User"].split(":"))
    config["process"] |= {
        "terminal": False,
        "user": {"uid": uid, "gid": gid},
        "args": list(argv) or image.config["Cmd"],
        "env": [f"{name}={value}" for name, value in (image.env | dict(env or {})).items()],
        "cwd": image.config["WorkingDir"],
        "capabilities": {},
        "noNewPrivileges": True,
    }
    config["process"].pop("rlimits", None)
    config["root"] = {"path": str(image.root), "readonly": True}
    # There are no cgroups, because they differ between machines. Limits are not tested here.
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
    if on_host_network:
        namespaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [each for each in namespaces if each["type"] != "network"]
    places = dict(volumes or {})
    for name, place in WRITABLE.items():
        if place not in places.values():
            (folder / name).mkdir()
            places[folder / name] = place
    for source, place in places.items():
        source.chmod(0o777)
        config["mounts"].append(
            {
                "destination": place,
                "type": "bind",
                "source": str(source),
                "options": ["rbind", "rw"],
            }
        )
    (folder / "config.json").write_text(json.dumps(config))
    return Container(folder, f"tuneloop-{uuid.uuid4().hex[:12]}")
