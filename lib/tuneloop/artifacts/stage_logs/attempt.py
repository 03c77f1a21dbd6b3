"""The attempts of a stage: one for each container that ran, named after its pod."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.storage import files, paths

FOLDER = "logs"
"""Folder of a stage that holds the folders of its attempts."""
LOCAL_POD = "local"
"""Pod name of a process that `tuneloop run` started on its own machine."""


@dataclass(frozen=True, order=True)
class Attempt:
    """One run of one container; attempts sort by rank, then by time."""

    rank: int
    """Number of the process among those that run the stage, from 0."""
    created: str
    """Creation time of the pod, UTC, such as 20261128T091334Z."""
    pod: str
    """Name of the pod."""
    uid: str
    """Uid of the pod."""
    restart: int = 0
    """Restarts of the container in its pod before this attempt."""

    @property
    def folder(self) -> str:
        """Name of the attempt's folder; `_` occurs in none of its parts."""
        return f"{self.rank:05d}_{self.created}_{self.pod}_{self.uid}_{self.restart}"

    @classmethod
    def from_folder(cls, name: str) -> Attempt | None:
        """Return the attempt with this folder; None if the name is not one of an attempt."""
        parts = name.split("_")
        if len(parts) != 5 or not (parts[0].isdigit() and parts[4].isdigit()):
            return None
        return cls(int(parts[0]), parts[1], parts[2], parts[3], int(parts[4]))

    def prefix(self, stage_prefix: str) -> str:
        """Return the URL of the attempt's folder."""
        return paths.join(stage_prefix, FOLDER, self.folder)


def list_attempts(stage_prefix: str) -> list[Attempt]:
    """Return the attempts that the archive of a stage holds, by rank and then by time."""
    names = files.list_folders(paths.join(stage_prefix, FOLDER))
    return sorted(each for name in names if (each := Attempt.from_folder(name)) is not None)
