"""The processes of local runs, announced in the artifacts so that `cancel` finds them.

The kernel reuses process ids. A process is therefore recognised by its id and its start time, on
the machine and since the boot on which it was announced.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.artifacts import layout
from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.validation import first_error


class ProcessIdentity(BaseModel):
    """One process of a machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    started: str
    """Start time, as the kernel or `ps` reports it; two processes with one id differ in it."""

    def is_alive(self) -> bool:
        """Return whether the process still runs; one that waits to be collected does not."""
        return _start_time(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        """Send a signal, but never to another process that has got the same id.

        Raises:
            PermissionError: the process belongs to another user.
        """
        with contextlib.suppress(ProcessLookupError):
            if not hasattr(os, "pidfd_open"):
                if self.is_alive():
                    os.kill(self.pid, number)
                return
            # The descriptor keeps pointing to this process, even if it ends after the check.
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.is_alive():
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


class Announcement(BaseModel):
    """A process that runs the stages of a run on one machine, and the stage's own process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1"] = "1"
    host: str
    """Host name of the machine."""
    boot: str
    """Id of the boot, after which process ids begin anew; empty if the system has none."""
    runner: ProcessIdentity
    """The process that starts stage after stage, such as `tuneloop run`."""
    stage: str
    """Name of the stage that runs."""
    process: ProcessIdentity
    """The process of the stage."""

    @property
    def name(self) -> str:
        """Name of the file of this announcement."""
        return f"{self.host}-{self.runner.pid}.json"

    @property
    def is_here(self) -> bool:
        """Whether the processes are on this machine."""
        return self.host == socket.gethostname()


def announce(artifacts: str, run_id: str, stage: str, pid: int) -> Announcement:
    """Write that this process runs a stage, replacing what it announced before."""
    made = Announcement(
        host=socket.gethostname(),
        boot=_boot_id(),
        runner=_identity(os.getpid()),
        stage=stage,
        process=_identity(pid),
    )
    files.write(_url(artifacts, run_id, made.name), made.model_dump_json().encode() + b"\n")
    return made


def withdraw(artifacts: str, run_id: str, made: Announcement) -> None:
    """Delete an announcement; its processes have ended."""
    files.delete_tree(_url(artifacts, run_id, made.name))


def find_announcements(artifacts: str, run_id: str) -> list[Announcement]:
    """Return the announcements of a run, without those of an earlier boot of this machine.

    Raises:
        DataError: a file is not an announcement.
    """
    found = []
    for name in files.list_names(_url(artifacts, run_id)):
        url = _url(artifacts, run_id, name)
        try:
            each = Announcement.model_validate_json(files.read(url))
        except FileNotFoundError:  # its process has just ended
            continue
        except ValidationError as e:
            raise DataError(
                f"{url}: {first_error(e)}; delete the file if no process of the run is left"
            ) from e
        if each.is_here and each.boot != _boot_id():
            withdraw(artifacts, run_id, each)
        else:
            found.append(each)
    return found


def _url(artifacts: str, run_id: str, *name: str) -> str:
    return paths.join(layout.run_prefix(artifacts, run_id), "processes", *name)


def _identity(pid: int) -> ProcessIdentity:
    return ProcessIdentity(pid=pid, started=_start_time(pid) or "")


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _start_time(pid: int) -> str | None:
    """Return when a process was started; None if there is none, or if it has ended."""
    if not Path("/proc/self/stat").exists():
        return _start_time_of_ps(pid)
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The name of the program, in parentheses, can hold any character.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _start_time_of_ps(pid: int) -> str | None:
    """Return the same on systems without /proc, such as macOS."""
    command = ["ps", "-o", "state=,lstart=", "-p", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return " ".join(found[1:]) if found and not found[0].startswith("Z") else None
