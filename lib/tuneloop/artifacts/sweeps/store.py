"""The files of a sweep: which runs it has, how each of them ended, and whether it is cancelled."""

from __future__ import annotations

from typing import Any, Literal

from tuneloop.artifacts import layout
from tuneloop.artifacts.runs import group_files
from tuneloop.artifacts.runs.group_files import GroupFile, read_file, read_or_forget, write_file
from tuneloop.errors import InputMissing
from tuneloop.specs.sweep import SweepSpec
from tuneloop.storage import files, paths

MARK = "-sweep-"
"""Part of every sweep's id; ids without it are those of runs."""
NAME = "sweep.json"
MemberEnd = Literal["done", "failed", "stopped early", "out of budget"]


class Member(GroupFile):
    """One run of a sweep."""

    number: int
    """Number of the member, from 1."""
    label: str
    """The changed values, for tables."""
    values: dict[str, Any]
    """Path of a field -> its value."""
    run_id: str
    chips: dict[str, int]
    """Stage -> chips of its machines; 0 on CPUs."""

    @property
    def place(self) -> str:
        """Place of the run in the sweep, such as `member 3: rank=8`."""
        return f"member {self.number}: {self.label}"


class SweepManifest(GroupFile):
    """sweep.json: the members of a sweep."""

    schema_version: Literal["1"] = "1"
    sweep_id: str
    settings: dict[str, Any]
    """The key `sweep` of the spec."""
    members: list[Member]

    def load_settings(self) -> SweepSpec:
        """Return the settings of the sweep."""
        return SweepSpec.model_validate(self.settings)


class MemberState(GroupFile):
    """How a member ended the last time that it ran."""

    run_id: str
    state: MemberEnd
    cause: str = ""
    """Why it is not done; empty for a member that is."""
    chip_hours: float = 0.0
    """Chip-hours that the member has held, over all times that it ran."""


def is_sweep_id(text: str) -> bool:
    """Return whether an id can be that of a sweep."""
    return MARK in text


def find_sweep(artifacts: str, sweep_id: str) -> SweepManifest | None:
    """Read a sweep; None if there is no sweep of this id.

    Raises:
        DataError: sweep.json is broken.
    """
    if not is_sweep_id(sweep_id):
        return None
    return read_file(SweepManifest, paths.join(layout.sweep_prefix(artifacts, sweep_id), NAME))


def load_sweep(artifacts: str, sweep_id: str) -> SweepManifest:
    """Read a sweep.

    Raises:
        InputMissing: there is no sweep of this id.
        DataError: sweep.json is broken.
    """
    found = find_sweep(artifacts, sweep_id)
    if found is None:
        raise InputMissing(
            f"sweep {sweep_id}: found no sweep of this id below {artifacts}, expected one that"
            " `run` or `submit` has started; check the id and --artifacts"
        )
    return found


def save_sweep(manifest: SweepManifest, artifacts: str) -> None:
    """Write sweep.json, and take back an earlier cancellation."""
    prefix = layout.sweep_prefix(artifacts, manifest.sweep_id)
    write_file(manifest, paths.join(prefix, NAME))
    group_files.clear_cancelled(prefix)


def save_state(state: MemberState, artifacts: str, sweep_id: str) -> None:
    """Write how a member ended."""
    write_file(state, _state_url(artifacts, sweep_id, state.run_id))


def read_state(artifacts: str, sweep_id: str, run_id: str) -> MemberState | None:
    """Read how a member ended; None if it has not, or if the file is broken."""
    return read_or_forget(MemberState, _state_url(artifacts, sweep_id, run_id))


def forget_failures(manifest: SweepManifest, artifacts: str) -> None:
    """Delete the states of failed members, so that a submitter runs them again."""
    for member in manifest.members:
        known = read_state(artifacts, manifest.sweep_id, member.run_id)
        if known is not None and known.state == "failed":
            files.delete(_state_url(artifacts, manifest.sweep_id, member.run_id))


def mark_cancelled(artifacts: str, sweep_id: str) -> None:
    """Tell every process that runs the sweep to start no other member."""
    group_files.mark_cancelled(layout.sweep_prefix(artifacts, sweep_id))


def is_cancelled(artifacts: str, sweep_id: str) -> bool:
    """Return whether the sweep was cancelled since it was last started."""
    return group_files.is_cancelled(layout.sweep_prefix(artifacts, sweep_id))


def _state_url(artifacts: str, sweep_id: str, run_id: str) -> str:
    return paths.join(layout.sweep_prefix(artifacts, sweep_id), "members", f"{run_id}.json")
