"""Delete a run, except for the files that other runs and models name.

The order makes an interrupted deletion harmless: first the cache pointers, so that no new run
adopts a result; then the records, without which nobody reads an output; then everything else, and
the run's manifest last, so that the run stays in lists until it is deleted completely.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tuneloop import jsonl
from tuneloop.artifacts.layout import pointer_url
from tuneloop.artifacts.progress import read_progress
from tuneloop.artifacts.records import Record
from tuneloop.errors import InputMissing, UsageError
from tuneloop.history.inventory import Inventory
from tuneloop.history.references import Reference, references_to
from tuneloop.history.stored import ALIVE, parse_time
from tuneloop.storage import files, paths
from tuneloop.storage.objects import (
    StoredObject,
    delete_objects,
    read_many,
    remove_empty_folders,
)


@dataclass(frozen=True)
class Deletion:
    """What deleting a run would do."""

    run_id: str
    references: tuple[Reference, ...]
    """What refers to the run."""
    deleted: tuple[StoredObject, ...]
    """The objects to delete, in this order."""
    kept: tuple[StoredObject, ...]
    """Objects of the run that stay, because other runs or models name them."""
    pointers: dict[str, str | None]
    """Fingerprint -> the record that its cache pointer shall name; None deletes the pointer."""

    @property
    def size_bytes(self) -> int:
        """Bytes that are freed."""
        return sum(each.size_bytes for each in self.deleted)

    @property
    def kept_bytes(self) -> int:
        """Bytes that stay."""
        return sum(each.size_bytes for each in self.kept)


def plan_deletion(inventory: Inventory, run_id: str) -> Deletion:
    """Determine what deleting a run would do; nothing is written.

    Raises:
        InputMissing: there is no such run.
        DataError: a file of another run or of a model cannot be read, so what it names is unknown.
    """
    if run_id not in inventory.runs:
        raise InputMissing(
            f"{paths.join(inventory.artifacts, 'training_runs', run_id)}: missing, expected a run;"
            " check the run id and --artifacts"
        )
    inventory.check_readable(without_run=run_id)
    named = inventory.named(without_run=run_id)
    own = inventory.below(f"training_runs/{run_id}")
    return Deletion(
        run_id,
        tuple(references_to(inventory, run_id)),
        tuple(sorted((each for each in own if each.name not in named), key=_rank)),
        tuple(each for each in own if each.name in named),
        _pointers(inventory, run_id),
    )


def _rank(each: StoredObject) -> tuple[int, str]:
    """Return the place of an object in the order of deletion."""
    folders = each.name.count("/")
    name = each.name.rsplit("/", 1)[-1]
    if folders == 3 and name.startswith("record"):
        return (0, each.name)
    if folders == 2 and name == "run_manifest.json":
        return (2, each.name)
    return (1, each.name)


def _pointers(inventory: Inventory, run_id: str) -> dict[str, str | None]:
    """Determine the new content of the cache pointers that name a record of the run."""
    run = inventory.runs[run_id]
    fingerprints = {record.fingerprint for record in run.records}
    fingerprints |= set(run.manifest.stages.values()) if run.manifest else set()
    known = sorted(each for each in fingerprints if f"stages/{each}.json" in inventory.names)
    contents = read_many([pointer_url(inventory.artifacts, each) for each in known])
    others = _records_of_others(inventory, run_id)
    return {
        fingerprint: others.get(fingerprint)
        for fingerprint, data in zip(known, contents, strict=True)
        if f"training_runs/{run_id}/" in (pointed_record(data) or "")
    }


def _records_of_others(inventory: Inventory, run_id: str) -> dict[str, str]:
    """Return fingerprint -> path of the record of another run."""

    def whole(records: Iterable[Record]) -> Iterable[Record]:
        return (record for record in records if record.part is None)

    return {
        record.fingerprint: f"training_runs/{run.run_id}/{record.stage}/record.json"
        for run in inventory.runs.values()
        if run.run_id != run_id
        for record in whole(run.records)
    }


def pointed_record(data: bytes | None) -> str | None:
    """Return the path of the record that a cache pointer names; None if it is broken."""
    try:
        return str(json.loads(data or b"")["record"])
    except (ValueError, KeyError, TypeError):
        return None


def check_deletion(
    inventory: Inventory, deletion: Deletion, *, force: bool, now: datetime, storage_now: datetime
) -> None:
    """Refuse to delete a run that something refers to, or that is running.

    Args:
        inventory: the inventory that the deletion was planned with.
        deletion: the deletion.
        force: accept references; never a run that is running.
        now: the time on this machine's clock.
        storage_now: the time on the storage's clock.

    Raises:
        UsageError: the run must not be deleted.
    """
    stage = running_stage(inventory, deletion.run_id, now, storage_now)
    if stage is not None:
        raise UsageError(
            f"run {deletion.run_id}: stage {stage} is running, because it has reported progress in"
            f" the last {ALIVE.seconds} seconds; stop it, with `tuneloop cancel {deletion.run_id}`"
            " on a cluster, and delete the run then"
        )
    if deletion.references and not force:
        said = "; ".join(each.sentence for each in deletion.references)
        raise UsageError(
            f"run {deletion.run_id}: {said}; change or delete these first, or add --force, which"
            " keeps the files that other runs and models name"
        )


def running_stage(
    inventory: Inventory, run_id: str, now: datetime, storage_now: datetime
) -> str | None:
    """Return a stage that has reported progress just now; None if there is none.

    Clocks may differ: the time in the file is compared with this machine's clock, and the time of
    the file with the storage's.
    """
    run = inventory.runs[run_id]
    for each in inventory.below(f"training_runs/{run_id}"):
        _, _, stage, *rest = each.name.split("/")
        if not rest or not rest[0].startswith("progress") or run.stage(stage):
            continue
        prefix = paths.join(inventory.artifacts, "training_runs", run_id, stage)
        beat = read_progress(prefix)
        said = parse_time(beat.updated_at) if beat else None
        if _is_near(said, now) or _is_near(each.modified, storage_now):
            return stage
    return None


def _is_near(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and timedelta(0) <= abs(now - moment) < ALIVE


def delete_run(inventory: Inventory, deletion: Deletion) -> None:
    """Delete a run; call it again, with a new plan, after an interruption."""
    artifacts = inventory.artifacts
    delete_objects(artifacts, [f"run_index/{deletion.run_id}.json"])
    for fingerprint, record in deletion.pointers.items():
        if record is None:
            delete_objects(artifacts, [f"stages/{fingerprint}.json"])
        else:
            files.write(pointer_url(artifacts, fingerprint), jsonl.dump_line({"record": record}))
    for rank in (0, 1, 2):
        names = [each.name for each in deletion.deleted if _rank(each)[0] == rank]
        delete_objects(artifacts, names)
    # Last, because a list may write the index again as long as there are records.
    delete_objects(artifacts, [f"run_index/{deletion.run_id}.json"])
    remove_empty_folders(paths.join(artifacts, "training_runs", deletion.run_id))
