"""The one table of rounds: every run of every seed, round and arm, known or still to come."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tuneloop.artifacts import records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import SampleCounts
from tuneloop.artifacts.rounds import store
from tuneloop.artifacts.rounds.store import RoundSelection, RoundsManifest, RoundsMember
from tuneloop.datasets.read import find_manifest
from tuneloop.errors import DataError, InputMissing
from tuneloop.history.stored import read_unfinished
from tuneloop.runs.outcome import load_outcome

LATER = "later"
"""State of a run that is planned once the runs before it are done."""
BROKEN = "broken"
"""State of a run with a file that is missing or damaged."""


@dataclass(frozen=True)
class Row:
    """One run in the table."""

    seed: int
    round: int
    """Number of the round; 0 for the run that trains the first base model."""
    role: str
    """`start`, `sample`, or the name of an arm."""
    run_id: str
    """Empty if the run is not planned yet."""
    state: str
    """`done`, `to run`, `later`, `nothing selected`, `broken`, or the stage that is at work."""
    base: str
    """Run or model that it starts or samples from."""
    examples: int | None
    """Traces of its dataset, or samples of a sampling run; None if not known."""
    before: float | None
    """Accuracy of its base model, 0 to 1; None until it is evaluated."""
    after: float | None
    """Accuracy of its model, 0 to 1; for a sampling run, the share of correct samples."""
    gate: str = ""
    """`passed` or `failed` for a selected arm that was judged."""
    problems: tuple[str, ...] = ()
    """Why the gate failed."""
    error: str = ""
    """What is wrong with a file of a broken run."""

    def as_json(self) -> dict[str, Any]:
        """Return the row for report.json."""
        return asdict(self)


@dataclass(frozen=True)
class SelectionRow:
    """What became of the samples of one round."""

    seed: int
    round: int
    counts: RoundSelection

    @property
    def rejected(self) -> int:
        """Usable samples that the rules have not selected."""
        return self.counts.usable - self.counts.selected

    @property
    def sentence(self) -> str:
        """What became of the samples, as part of a sentence."""
        of = self.counts
        rules = [f"{each.rule}: {each.removed}" for each in of.rules if each.removed]
        said = f" ({', '.join(rules)})" if rules else ""
        return (
            f"seed {self.seed}, round {self.round}: of {of.samples} samples, {of.unusable} have no"
            f" answer, no score or are cut, {of.repeated} are repeated, and the rules reject"
            f" {self.rejected}{said}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the row for report.json."""
        counts = self.counts.model_dump(mode="json")
        return {"seed": self.seed, "round": self.round, **counts, "usable": self.counts.usable}


def read_selections(manifest: RoundsManifest, artifacts: str) -> list[SelectionRow]:
    """Read what was selected in each round, as far as it is known."""
    places = [(s, n) for s in manifest.seeds for n in range(1, manifest.count + 1)]
    found = ((s, n, store.read_selection(artifacts, manifest.rounds_id, s, n)) for s, n in places)
    return [SelectionRow(s, n, counts) for s, n, counts in found if counts is not None]


def build_rows(manifest: RoundsManifest, artifacts: str, *, live: bool = False) -> list[Row]:
    """Read the state of all runs, in the order in which they run.

    Args:
        manifest: the rounds.
        artifacts: URL of the artifacts.
        live: whether the stage at work is shown, which changes from look to look.
    """
    has_start = manifest.settings.get("start", "sft") == "sft"
    rows = []
    for seed in manifest.seeds:
        places = [(0, "start")] if has_start else []
        for number in range(1, manifest.count + 1):
            places += [(number, role) for role in ("sample", *manifest.arms)]
        rows += [_row(manifest, artifacts, seed, *place, live=live) for place in places]
    return rows


def _row(
    manifest: RoundsManifest, artifacts: str, seed: int, number: int, role: str, *, live: bool
) -> Row:
    member = manifest.member(seed, number, role)
    if member is None:
        chosen = store.read_selection(artifacts, manifest.rounds_id, seed, number)
        is_empty = role in manifest.arms and chosen is not None and not chosen.selected
        state = "nothing selected" if is_empty else LATER
        return Row(seed, number, role, "", state, "", None, None, None)
    try:
        return _row_of(manifest, artifacts, member, live=live)
    except DataError as e:  # one broken run must not cost the table of all
        return Row(
            seed, number, role, member.run_id, BROKEN, member.base, None, None, None, error=str(e)
        )


def _row_of(manifest: RoundsManifest, artifacts: str, member: RoundsMember, *, live: bool) -> Row:
    seed, number, role = member.seed, member.round, member.role
    found = {each: records.find(artifacts, member.run_id, each) for each in member.stages}
    is_done = all(found.values())
    state = "done" if is_done else "to run"
    if live and not is_done:
        state = _working(artifacts, member.run_id, found) or state
    before, after = _accuracies(artifacts, member.run_id, found)
    gate = store.read_gate(artifacts, manifest.rounds_id, seed, number)
    is_judged = role == "selected" and gate is not None and gate.run_id == member.run_id
    return Row(
        seed,
        number,
        role,
        member.run_id,
        state,
        member.base,
        _examples(artifacts, member.dataset, found),
        before,
        after,
        ("passed" if gate.passed else "failed") if is_judged and gate else "",
        gate.problems if is_judged and gate else (),
    )


def _accuracies(
    artifacts: str, run_id: str, found: dict[str, Record | None]
) -> tuple[float | None, float | None]:
    sampled = found.get("sample")
    if sampled is not None:
        counts = sampled.counts_as(SampleCounts)
        return None, counts.correct / counts.samples
    if found.get("eval") is None:
        return None, None
    try:
        report = load_outcome(artifacts, run_id).report
    except InputMissing:
        return None, None
    if report is None:
        return None, None
    return report.overall.base.share, report.overall.tuned.share


def _examples(artifacts: str, dataset: str, found: dict[str, Record | None]) -> int | None:
    sampled = found.get("sample")
    if sampled is not None:
        return sampled.counts_as(SampleCounts).samples
    manifest = find_manifest(artifacts, dataset) if dataset else None
    return manifest.trace_count if manifest else None


def _working(artifacts: str, run_id: str, found: dict[str, Record | None]) -> str:
    """Return the stage that reports progress, and its step; empty if none does."""
    stage = next(name for name, record in found.items() if not record)
    try:
        current = read_unfinished(artifacts, run_id, stage, datetime.now(UTC))
    except DataError:  # a heartbeat is for people
        return ""
    if current.state != "running":
        return ""
    return f"{stage} {current.note.removesuffix('.').lower()}".strip()


def percent(share: float | None) -> str:
    """Return a share such as `40.0 %`; empty if it is not known."""
    return "" if share is None else f"{100 * share:.1f} %"
