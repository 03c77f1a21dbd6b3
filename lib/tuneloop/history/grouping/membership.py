"""Sweeps and rounds as groups of runs: which runs belong to which group, and where in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import ValidationError

from tuneloop.artifacts import layout
from tuneloop.artifacts.rounds import store as rounds
from tuneloop.artifacts.rounds.store import RoundsManifest
from tuneloop.artifacts.sweeps import store as sweeps
from tuneloop.artifacts.sweeps.store import SweepManifest
from tuneloop.storage import files, paths
from tuneloop.storage.objects import in_parallel, read_many

NO_GROUP = "none"
"""Pattern that chooses the runs without a group; no group has this id."""


@dataclass(frozen=True)
class GroupKind:
    """A kind of group. To add one, add a row to `KINDS`."""

    name: str
    prefix: Callable[[str], str]
    """(URL of the artifacts) -> URL of the prefix of all groups of this kind."""
    file: str
    """Name of the file with the members."""
    manifest: type[SweepManifest] | type[RoundsManifest]
    """Class of that file; its members have `run_id` and `place`."""


KINDS = (
    GroupKind("sweep", layout.sweeps_prefix, sweeps.NAME, SweepManifest),
    GroupKind("rounds", layout.all_rounds_prefix, rounds.NAME, RoundsManifest),
)


@dataclass(frozen=True)
class Group:
    """A sweep, or rounds."""

    kind: str
    """Name of a row of `KINDS`."""
    id: str
    places: Mapping[str, str]
    """Run id -> its place in the group, such as `seed 1, round 2, selected`."""


@dataclass(frozen=True)
class Membership:
    """A group that a run belongs to."""

    kind: str
    group: str
    """Id of the group."""
    place: str

    @property
    def sentence(self) -> str:
        """The membership as a sentence without a subject."""
        return f"is {self.place} of {self.kind} {self.group}"


def read_groups(artifacts: str) -> list[Group]:
    """Read all sweeps and rounds below an artifacts prefix.

    One request lists each kind, and each group takes one more. A group with a broken file is
    ignored: `tuneloop status` says what is wrong with it, and its runs are still listed.
    """
    ids = in_parallel(lambda kind: files.list_folders(kind.prefix(artifacts)), KINDS)
    found = [(kind, each) for kind, of_kind in zip(KINDS, ids, strict=True) for each in of_kind]
    urls = [paths.join(kind.prefix(artifacts), each, kind.file) for kind, each in found]
    groups = []
    for (kind, each), data in zip(found, read_many(urls), strict=True):
        try:
            members = kind.manifest.model_validate_json(data or b"").members
        except ValidationError:
            continue
        places = {member.run_id: member.place for member in members}
        groups.append(Group(kind.name, each, places))
    return groups


def memberships_of(groups: Iterable[Group]) -> dict[str, tuple[Membership, ...]]:
    """Return run id -> the groups that it belongs to; several can share a run."""
    found: dict[str, tuple[Membership, ...]] = {}
    for group in groups:
        for run_id, place in group.places.items():
            membership = Membership(group.kind, group.id, place)
            found[run_id] = (*found.get(run_id, ()), membership)
    return found


def belongs_to(memberships: Iterable[Membership], pattern: str) -> bool:
    """Return whether one of a run's groups has an id like a pattern.

    Args:
        memberships: the groups of the run.
        pattern: pattern of the id, with * and ?; `none` is true for a run without a group.
    """
    found = list(memberships)
    if pattern == NO_GROUP:
        return not found
    return any(fnmatchcase(each.group, pattern) for each in found)
