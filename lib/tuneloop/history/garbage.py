"""Find and delete what no run needs. What a record or a stored model names is never garbage.

An object is old if the storage's time of its last write is before a cutoff. An object of unknown
or future time is never old. A stage works as long as any object of it is not old, because it writes
its heartbeat every two seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tuneloop.history.deletion import pointed_record
from tuneloop.history.inventory import Inventory, read_inventory
from tuneloop.history.references import resume_owners
from tuneloop.storage import paths
from tuneloop.storage.objects import StoredObject, delete_objects, read_many, storage_time

DEFAULT_DAYS = 14.0
"""Minimum age of garbage."""
MIN_AGE = timedelta(hours=1)
"""Least minimum age: far longer than the heartbeat of a stage may be late."""


@dataclass(frozen=True)
class Garbage:
    """A folder or an object that no run needs."""

    kind: str
    """A key of `KINDS`."""
    path: str
    """Path relative to the artifacts prefix."""
    objects: tuple[StoredObject, ...]
    reason: str
    """Why no run needs it, as a sentence without an end mark."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(each.size_bytes for each in self.objects)

    @property
    def modified(self) -> datetime | None:
        """Time of the last write to any of the objects."""
        return max((each.modified for each in self.objects if each.modified), default=None)

    def as_json(self) -> dict[str, Any]:
        """Return the garbage for `--json`."""
        return {
            "kind": self.kind,
            "path": self.path,
            "objects": len(self.objects),
            "bytes": self.size_bytes,
            "modified": self.modified.isoformat() if self.modified else None,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class _Scan:
    """An inventory with the values that all kinds of garbage need."""

    inventory: Inventory
    cutoff: datetime
    named: frozenset[str]
    groups: dict[str, list[StoredObject]]
    """Path of each folder of two to five parts -> the objects below it."""
    children: dict[str, list[str]]
    """Path of a folder -> the names of the folders directly below it."""

    def below(self, *parts: str) -> list[StoredObject]:
        """Return the objects below a folder of two to five parts."""
        return self.groups.get("/".join(parts), [])

    def folders(self, *parts: str) -> list[str]:
        """Return the names of the folders directly below a folder of one to four parts."""
        return self.children.get("/".join(parts), [])

    def are_old(self, objects: Iterable[StoredObject]) -> bool:
        """Return whether all objects were last written before the cutoff."""
        return all(each.modified is not None and each.modified < self.cutoff for each in objects)

    def are_free(self, objects: Iterable[StoredObject]) -> bool:
        """Return whether no record and no stored model names any of the objects."""
        return all(each.name not in self.named for each in objects)


def find_garbage(
    inventory: Inventory, *, now: datetime, days: float, kinds: Iterable[str]
) -> list[Garbage]:
    """Find what no run needs; nothing is deleted.

    Args:
        inventory: everything below the artifacts prefix.
        now: the current time; the earlier one if the clocks of machine and storage differ.
        days: minimum age in days; an hour is the least.
        kinds: keys of `KINDS`.

    Raises:
        DataError: a manifest or record cannot be read, so what it names is unknown.
    """
    inventory.check_readable()
    groups: dict[str, list[StoredObject]] = {}
    for each in inventory.objects:
        parts = each.name.split("/")
        for depth in range(2, min(len(parts), 6)):
            groups.setdefault("/".join(parts[:depth]), []).append(each)
    children: dict[str, list[str]] = {}
    for path in groups:
        parent, _, name = path.rpartition("/")
        children.setdefault(parent, []).append(name)
    cutoff = now - max(timedelta(days=days), MIN_AGE)
    scan = _Scan(inventory, cutoff, frozenset(inventory.named()), groups, children)
    return [found for kind in kinds for found in KINDS[kind](scan)]


def _attempts(scan: _Scan) -> Iterator[Garbage]:
    """Find attempts of quiet stages of which no record names a file."""
    for run_id in scan.inventory.runs:
        for stage in scan.folders("training_runs", run_id):
            if not scan.are_old(scan.below("training_runs", run_id, stage)):
                continue
            for attempt in scan.folders("training_runs", run_id, stage, "attempts"):
                path = f"training_runs/{run_id}/{stage}/attempts/{attempt}"
                objects = scan.below(path)
                if scan.are_free(objects):
                    reason = "no record names a file of this attempt"
                    yield Garbage("attempts", path, tuple(objects), reason)


def _checkpoints(scan: _Scan) -> Iterator[Garbage]:
    """Find the checkpoints of finished runs from which no run continues."""
    runs = scan.inventory.runs
    needed = {owner for run in runs.values() for owner in resume_owners(scan.inventory, run)}
    needed |= {run.continues for run in runs.values() if run.continues}
    for run_id, run in runs.items():
        if not run.is_finished or run_id in needed:
            continue
        for stage in scan.folders("training_runs", run_id):
            path = f"training_runs/{run_id}/{stage}/resume"
            objects = scan.below(path)
            quiet = scan.are_old(scan.below("training_runs", run_id, stage))
            if objects and quiet and scan.are_free(objects):
                reason = "the run is finished, and no run continues from it"
                yield Garbage("checkpoints", path, tuple(objects), reason)


def _tokens(scan: _Scan) -> Iterator[Garbage]:
    """Find encoded examples, unless a run may be about to read them: no record names tokens."""
    for run_id, run in scan.inventory.runs.items():
        planned = run.manifest is not None and "train" in run.manifest.stages
        works = not scan.are_old(scan.below("training_runs", run_id))
        if planned and works and run.stage("train") is None:
            return
    for digest in scan.folders("tokens"):
        objects = scan.below("tokens", digest)
        if scan.are_old(objects) and scan.are_free(objects):
            reason = "no training is at work, and a later one encodes its examples again"
            yield Garbage("tokens", f"tokens/{digest}", tuple(objects), reason)


def _answers(scan: _Scan) -> Iterator[Garbage]:
    """Find kept answers of base models that no record names."""
    runs = scan.inventory.runs.values()
    named = {key for run in runs for record in run.records for key in record.kept_answers}
    for each in scan.inventory.objects:
        key = each.name.removeprefix("eval_answers/").removesuffix(".jsonl")
        is_kept = each.name == f"eval_answers/{key}.jsonl"
        if is_kept and key not in named and scan.are_old([each]):
            reason = "no run has used these answers, and a later one asks the base model again"
            yield Garbage("answers", each.name, (each,), reason)


def _pointers(scan: _Scan) -> Iterator[Garbage]:
    """Find cache pointers without a record, which would hide a new result, and stray indexes."""
    found = [
        each
        for each in scan.inventory.objects
        if each.name.startswith("stages/") and scan.are_old([each])
    ]
    urls = [paths.join(scan.inventory.artifacts, each.name) for each in found]
    for each, data in zip(found, read_many(urls), strict=True):
        record = pointed_record(data)
        if record not in scan.inventory.names:
            reason = f"its record {record} is missing" if record else "it is not a cache pointer"
            yield Garbage("pointers", each.name, (each,), reason)
    for each in scan.inventory.objects:
        run_id = each.name.removeprefix("run_index/").removesuffix(".json")
        is_index = each.name == f"run_index/{run_id}.json"
        if is_index and run_id not in scan.inventory.runs and scan.are_old([each]):
            yield Garbage("pointers", each.name, (each,), "it is the index of a deleted run")


def _datasets(scan: _Scan) -> Iterator[Garbage]:
    """Find datasets that no run, no rounds and no trigger names."""
    named = _chosen_datasets(scan.inventory)
    for run in scan.inventory.runs.values():
        if run.manifest is not None:
            named |= {str(run.manifest.spec.get("dataset")), run.prompts_dataset or ""}
            if run.manifest.dataset is not None:
                named.add(run.manifest.dataset.key)
    for key in scan.folders("datasets"):
        objects = scan.below("datasets", key)
        if key not in named and scan.are_old(objects) and scan.are_free(objects):
            yield Garbage(
                "datasets", f"datasets/{key}", tuple(objects), "no run names this dataset"
            )


def _chosen_datasets(inventory: Inventory) -> set[str]:
    """Return the keys of the datasets that rounds and triggers name."""
    named = set[str]()
    for rounds in inventory.rounds.values():
        named |= {str(rounds.spec.get("dataset")), *(each.dataset for each in rounds.members)}
    for starts in inventory.starts.values():
        # The next start needs the pattern of the last one, which no run needs to name.
        named |= {starts[-1].pattern, starts[-1].dataset_key}
    return named


def _models(scan: _Scan) -> Iterator[Garbage]:
    """Find stored models that no run starts from or asks, no alias names, no model was made of."""
    inventory = scan.inventory
    changes = (change for history in inventory.aliases.values() for change in history)
    named = {*inventory.aliases, *(each.model.name for each in changes)}
    for run in inventory.runs.values():
        named |= {run.stored_model or "", *run.baselines}
        model = run.manifest.model if run.manifest else None
        if model is not None:
            named |= {model.name or "", _model_at(inventory, model.place)}
    for name, manifest in inventory.models.items():
        named.add(manifest.base or "")
        place = _model_at(inventory, manifest.place)
        named |= {place} if place != name else set()
    for name in scan.folders("models"):
        objects = scan.below("models", name)
        if name not in named and scan.are_old(objects):
            yield Garbage(
                "models", f"models/{name}", tuple(objects), "no run starts from this model"
            )


def _sweeps(scan: _Scan) -> Iterator[Garbage]:
    """Find sweeps of which every run is gone; their report is all that is left."""
    for sweep_id in scan.folders("sweeps"):
        objects = scan.below("sweeps", sweep_id)
        manifest = scan.inventory.sweeps.get(sweep_id)
        members = manifest.members if manifest else []
        if scan.are_old(objects) and not any(m.run_id in scan.inventory.runs for m in members):
            reason = "its runs are deleted" if manifest else "it has no sweep.json"
            yield Garbage("sweeps", f"sweeps/{sweep_id}", tuple(objects), reason)


def _rounds(scan: _Scan) -> Iterator[Garbage]:
    """Find rounds of which every run is gone; their report is all that is left."""
    for rounds_id in scan.folders("rounds"):
        objects = scan.below("rounds", rounds_id)
        manifest = scan.inventory.rounds.get(rounds_id)
        members = manifest.members if manifest else ()
        if scan.are_old(objects) and not any(m.run_id in scan.inventory.runs for m in members):
            reason = "its runs are deleted" if manifest else "it has no rounds.json"
            yield Garbage("rounds", f"rounds/{rounds_id}", tuple(objects), reason)


def _model_at(inventory: Inventory, place: str | None) -> str:
    """Return the name of the stored model that holds a place; empty if it is elsewhere."""
    parts = ((inventory.within(place) if place else None) or "").split("/")
    return parts[1] if parts[0] == "models" and len(parts) > 1 else ""


KINDS: dict[str, Callable[[_Scan], Iterator[Garbage]]] = {
    "attempts": _attempts,
    "checkpoints": _checkpoints,
    "tokens": _tokens,
    "answers": _answers,
    "pointers": _pointers,
    "datasets": _datasets,
    "models": _models,
    "sweeps": _sweeps,
    "rounds": _rounds,
}
"""Kind of garbage -> the function that finds it."""
SAFE_KINDS = ("attempts", "checkpoints", "tokens", "answers", "pointers")
"""Kinds that a run can make again; the others are deleted only on request."""


def collect(inventory: Inventory, garbage: Iterable[Garbage]) -> None:
    """Delete garbage, the manifest of each folder first, so that nobody reads half a folder."""
    for each in garbage:
        names = [found.name for found in each.objects]
        manifests = [name for name in names if name.endswith("/manifest.json")]
        delete_objects(inventory.artifacts, manifests)
        delete_objects(inventory.artifacts, set(names) - set(manifests))


def run_gc(artifacts: str, *, now: datetime, days: float, kinds: Iterable[str]) -> list[Garbage]:
    """Delete what no run needs; returns what was deleted.

    Everything is looked at twice, and deleted if it is garbage both times and has not changed, so
    that a run that was planned after the first look keeps what it names.

    Args:
        artifacts: URL of the artifacts prefix.
        now: the time on this machine's clock.
        days: minimum age in days; an hour is the least.
        kinds: keys of `KINDS`.

    Raises:
        DataError: a manifest or record cannot be read, so what it names is unknown.
    """
    chosen = list(kinds)
    # Of two clocks that differ, the earlier one is right about what is old, or keeps too much.
    earlier = min(now, storage_time(artifacts) or now)
    first = set(find_garbage(read_inventory(artifacts), now=earlier, days=days, kinds=chosen))
    again = read_inventory(artifacts)
    found = find_garbage(again, now=earlier, days=days, kinds=chosen)
    garbage = [each for each in found if each in first]
    collect(again, garbage)
    return garbage
