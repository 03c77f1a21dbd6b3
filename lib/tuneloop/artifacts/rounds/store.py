"""The files of rounds: which runs they have, what was selected, the gates, and how chains ended.

None of them holds a time, so that rounds that were killed and continued have the same bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from tuneloop.artifacts import layout
from tuneloop.artifacts.runs import group_files
from tuneloop.artifacts.runs.group_files import GroupFile, read_file, read_or_forget, write_file
from tuneloop.errors import PASSING_EXIT_CODES, InputMissing
from tuneloop.storage import paths

MARK = "-rounds-"
"""Part of the id of rounds; ids without it are those of runs or sweeps."""
NAME = "rounds.json"


class RoundsMember(GroupFile):
    """One run of the rounds."""

    seed: int
    round: int
    """Number of the round, from 1; 0 for the run that trains the first base model."""
    role: str
    """`start`, `sample`, or the name of an arm."""
    run_id: str
    base: str = ""
    """Run or stored model that it starts or samples from; empty for the first run."""
    dataset: str = ""
    """Key of the dataset that it trains on; empty for a sampling run."""
    stages: tuple[str, ...] = ()
    """Names of its stages, in order."""

    @property
    def place(self) -> str:
        """Place of the run in the rounds, such as `seed 1, round 2, selected`."""
        number = f"round {self.round}, " if self.round else ""
        return f"seed {self.seed}, {number}{self.role}"


class RoundsManifest(GroupFile):
    """rounds.json: the settings, and the runs that are known so far."""

    schema_version: Literal["1"] = "1"
    rounds_id: str
    settings: dict[str, Any]
    """The key `rounds` of the spec, defaults filled in."""
    spec: dict[str, Any]
    """The other keys of the spec, as they were given."""
    seeds: tuple[int, ...]
    """Seeds of the chains, in the order in which they run."""
    count: int
    """Number of rounds of each chain."""
    arms: tuple[str, ...]
    members: tuple[RoundsMember, ...] = ()
    """Runs in the order in which they run. A run of a later round is not known before the gate of
    the round before it."""

    def member(self, seed: int, number: int, role: str) -> RoundsMember | None:
        """Return a member; None if it is not known yet."""
        for each in self.members:
            if (each.seed, each.round, each.role) == (seed, number, role):
                return each
        return None

    def with_member(self, member: RoundsMember) -> RoundsManifest:
        """Return the manifest with one more member, which replaces that at the same place."""
        place = (member.seed, member.round, member.role)
        kept = [each for each in self.members if (each.seed, each.round, each.role) != place]
        order = {seed: number for number, seed in enumerate(self.seeds)}
        roles = ("start", "sample", *self.arms)
        members = sorted(
            [*kept, member], key=lambda each: (order[each.seed], each.round, roles.index(each.role))
        )
        return self.model_copy(update={"members": tuple(members)})


class RuleEffect(GroupFile):
    """What one rule of the selection removed."""

    rule: str
    removed: int
    left: int


class RoundSelection(GroupFile):
    """selection.json: what became of the samples of a round."""

    samples: int
    """Completions of the round."""
    unusable: int
    """Completions without an answer or a score, or cut at the maximum number of tokens."""
    repeated: int
    """Completions that equal another one."""
    full_reward: int
    """Completions with the reward 1, of all completions."""
    selected: int
    """Samples of the arm `selected`, and of the arm `random`."""
    rules: tuple[RuleEffect, ...] = ()

    @property
    def usable(self) -> int:
        """Different samples that all arms may be trained on."""
        return self.samples - self.unusable - self.repeated


class RoundGate(GroupFile):
    """gate.json: whether the selected arm passes, and why not."""

    run_id: str
    passed: bool
    problems: tuple[str, ...] = ()


class ChainEnd(GroupFile):
    """ended.json: how the chain of a seed ended the last time that it ran."""

    state: Literal["done", "failed"]
    cause: str = ""
    exit_code: int = 0
    """Exit code of a verb that fails for this cause; 0 if the chain is done."""


def is_rounds_id(text: str) -> bool:
    """Return whether an id can be that of rounds."""
    return MARK in text


def find_rounds(artifacts: str, rounds_id: str) -> RoundsManifest | None:
    """Read rounds.json; None if there are no rounds of this id.

    Raises:
        DataError: rounds.json is broken.
    """
    if not is_rounds_id(rounds_id):
        return None
    return read_file(RoundsManifest, _url(artifacts, rounds_id, NAME))


def load_rounds(artifacts: str, rounds_id: str) -> RoundsManifest:
    """Read rounds.json.

    Raises:
        InputMissing: there are no rounds of this id.
        DataError: rounds.json is broken.
    """
    found = find_rounds(artifacts, rounds_id)
    if found is None:
        raise InputMissing(
            f"rounds {rounds_id}: found no rounds of this id below {artifacts}, expected some that"
            " `run` has started; check the id and --artifacts"
        )
    return found


def save_rounds(manifest: RoundsManifest, artifacts: str) -> None:
    """Write rounds.json."""
    write_file(manifest, _url(artifacts, manifest.rounds_id, NAME))


def chain_folder(seed: int, number: int | None = None) -> str:
    """Return the folder of a chain, or of one of its rounds, below that of the rounds."""
    return f"seed-{seed}" if number is None else f"seed-{seed}/round-{number}"


def read_selection(artifacts: str, rounds_id: str, seed: int, number: int) -> RoundSelection | None:
    """Read what was selected in a round; None if it is not known, or if the file is broken."""
    url = _url(artifacts, rounds_id, chain_folder(seed, number), "selection.json")
    return read_or_forget(RoundSelection, url)


def save_selection(
    found: RoundSelection, artifacts: str, rounds_id: str, seed: int, number: int
) -> None:
    """Write what was selected in a round."""
    write_file(found, _url(artifacts, rounds_id, chain_folder(seed, number), "selection.json"))


def read_gate(artifacts: str, rounds_id: str, seed: int, number: int) -> RoundGate | None:
    """Read the gate of a round; None if it was not judged yet, or if the file is broken."""
    url = _url(artifacts, rounds_id, chain_folder(seed, number), "gate.json")
    return read_or_forget(RoundGate, url)


def save_gate(found: RoundGate, artifacts: str, rounds_id: str, seed: int, number: int) -> None:
    """Write the gate of a round."""
    write_file(found, _url(artifacts, rounds_id, chain_folder(seed, number), "gate.json"))


def read_end(artifacts: str, rounds_id: str, seed: int) -> ChainEnd | None:
    """Read how a chain ended; None if it has not, or if the file is broken."""
    return read_or_forget(ChainEnd, _url(artifacts, rounds_id, chain_folder(seed), "ended.json"))


def save_end(found: ChainEnd, artifacts: str, rounds_id: str, seed: int) -> None:
    """Write how a chain ended."""
    write_file(found, _url(artifacts, rounds_id, chain_folder(seed), "ended.json"))


def mark_cancelled(artifacts: str, rounds_id: str) -> None:
    """Tell every process that runs the rounds to start no other member."""
    group_files.mark_cancelled(layout.rounds_prefix(artifacts, rounds_id))


def is_cancelled(artifacts: str, rounds_id: str) -> bool:
    """Return whether the rounds were cancelled since they were last started."""
    return group_files.is_cancelled(layout.rounds_prefix(artifacts, rounds_id))


def clear_cancelled(artifacts: str, rounds_id: str) -> None:
    """Take back an earlier cancellation."""
    group_files.clear_cancelled(layout.rounds_prefix(artifacts, rounds_id))


def is_unfinished(artifacts: str, rounds_id: str) -> bool:
    """Return whether running the spec again can continue rounds, without any change.

    That is the case until all chains have ended, unless the rounds were cancelled or deleted. A
    chain that failed because of the infrastructure counts as interrupted.
    """
    found = find_rounds(artifacts, rounds_id)
    if found is None or is_cancelled(artifacts, rounds_id):
        return False
    ends = [read_end(artifacts, rounds_id, seed) for seed in found.seeds]
    return any(end is None or end.exit_code in PASSING_EXIT_CODES for end in ends)


def _url(artifacts: str, rounds_id: str, *parts: str) -> str:
    return paths.join(layout.rounds_prefix(artifacts, rounds_id), *parts)
