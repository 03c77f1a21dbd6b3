"""Everything below an artifacts prefix: its objects, and what runs, models and others name.

Deleting starts from here, never from an index. The objects are listed before the records are read,
so a record that is published in between names objects that are too new to be deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from tuneloop.artifacts.aliases import AliasChange
from tuneloop.artifacts.model_manifest import ModelManifest
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.rounds.store import RoundsManifest
from tuneloop.artifacts.runs.run_manifest import RunManifest
from tuneloop.artifacts.runs.triggers import Start
from tuneloop.artifacts.sweeps.store import SweepManifest
from tuneloop.errors import DataError
from tuneloop.evaluation.gates.baselines import Baseline
from tuneloop.history.promoted import read_aliases, read_baselines, read_starts
from tuneloop.storage import paths
from tuneloop.storage.objects import StoredObject, list_objects, read_many
from tuneloop.validation import first_error

M = TypeVar("M", bound=BaseModel)
_RECORD = re.compile(r"training_runs/([^/]+)/([^/]+)/record(?:-[^/]*)?\.json")
_RUN_FILE = re.compile(r"training_runs/([^/]+)/.+", re.DOTALL)
_RUN_MANIFEST = re.compile(r"training_runs/([^/]+)/run_manifest\.json")
_MODEL_MANIFEST = re.compile(r"models/([^/]+)/manifest\.json")
_SWEEP_MANIFEST = re.compile(r"sweeps/([^/]+)/sweep\.json")
_ROUNDS_MANIFEST = re.compile(r"rounds/([^/]+)/rounds\.json")
_WITHIN = re.compile(r"(?:^|/)((?:training_runs|models)/[^?#]+)")
MAX_SHOWN_PROBLEMS = 3


@dataclass(frozen=True)
class KnownRun:
    """What a run names."""

    run_id: str
    manifest: RunManifest | None
    """None if there is none."""
    records: tuple[Record, ...]
    """Records of its stages and of their shards."""

    def stage(self, name: str) -> Record | None:
        """Return the record of a whole stage; None without one."""
        return next((r for r in self.records if r.stage == name and r.part is None), None)

    @property
    def is_finished(self) -> bool:
        """Whether every planned stage has its record."""
        manifest = self.manifest
        return manifest is not None and all(self.stage(name) for name in manifest.stages)

    @property
    def continues(self) -> str | None:
        """Id of the run that this run continues; None if it continues none."""
        return self._of("train", "continue_from")

    @property
    def starts_from(self) -> str | None:
        """Id of the run that has the model that this run starts from or asks; None if none has."""
        return self._of("train", "model", "run") or self._of("sample", "model", "run")

    @property
    def stored_model(self) -> str | None:
        """Name of the stored model that this run starts from or asks; None if it names none."""
        return self._of("train", "model", "model") or self._of("sample", "model", "model")

    @property
    def prompts_dataset(self) -> str | None:
        """Key of the dataset whose prompts a sampling run asks; None without one."""
        return self._of("sample", "prompts", "dataset")

    @property
    def baselines(self) -> frozenset[str]:
        """Stored models, or runs with their tuned models, that its evaluation asks as well."""
        options: object = self.manifest.spec.get("eval") if self.manifest else None
        names = options.get("baselines") if isinstance(options, dict) else None
        listed = names if isinstance(names, list) else []
        return frozenset(each for each in listed if isinstance(each, str))

    def _of(self, *keys: str) -> str | None:
        value: object = self.manifest.spec if self.manifest else None
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, str) else None


@dataclass(frozen=True)
class Inventory:
    """The objects below an artifacts prefix, and what names them."""

    artifacts: str
    objects: tuple[StoredObject, ...]
    runs: dict[str, KnownRun]
    """Run id -> run, for every folder below `training_runs/`."""
    models: dict[str, ModelManifest]
    """Name -> manifest of a stored model."""
    sweeps: dict[str, SweepManifest]
    """Id of a sweep -> its members."""
    rounds: dict[str, RoundsManifest]
    """Id of rounds -> their members."""
    aliases: dict[str, tuple[AliasChange, ...]]
    """Alias -> its changes, the oldest first."""
    baselines: dict[str, tuple[Baseline, ...]]
    """Name of a baseline of the gate -> its versions, the oldest first."""
    starts: dict[str, tuple[Start, ...]]
    """Name of a trigger -> its starts, the oldest first."""
    problems: dict[str, str]
    """Path of a file that cannot be read -> the reason; what it names is unknown."""

    @cached_property
    def names(self) -> frozenset[str]:
        """The paths of all objects, relative to the prefix."""
        return frozenset(each.name for each in self.objects)

    def below(self, folder: str) -> list[StoredObject]:
        """Return the objects below a folder."""
        return [each for each in self.objects if each.name.startswith(f"{folder}/")]

    def named(self, *, without_run: str | None = None) -> set[str]:
        """Return the paths that records of runs and manifests of models name.

        Args:
            without_run: id of a run that does not count.
        """
        runs = (run for run in self.runs.values() if run.run_id != without_run)
        found = {file.path for run in runs for record in run.records for file in record.outputs}
        for name, manifest in self.models.items():
            folder = self.within(manifest.place) if manifest.place else f"models/{name}"
            if folder is not None:
                found |= {f"{folder}/{file.name}" for file in manifest.files}
                found.add(f"{folder}/manifest.json")
        return found

    def within(self, url: str) -> str | None:
        """Return the path of a folder relative to the prefix; None if it is elsewhere.

        A URL may spell the same place differently, for example with another host or a symbolic
        link, so a path that exists here counts as the one that is meant.
        """
        prefix = paths.absolute(self.artifacts).rstrip("/") + "/"
        if url.startswith(prefix):
            return url[len(prefix) :].strip("/")
        for found in _WITHIN.finditer(url):
            folder = found[1].strip("/")
            if any(name.startswith(f"{folder}/") for name in self.names):
                return folder
        return None

    def check_readable(self, *, without_run: str | None = None) -> None:
        """Raise DataError if a manifest or record cannot be read, so that its names are unknown.

        Args:
            without_run: id of a run that does not count.
        """
        ignored = f"training_runs/{without_run}/"
        found = [
            f"{paths.join(self.artifacts, path)}: {reason}"
            for path, reason in self.problems.items()
            if without_run is None or not path.startswith(ignored)
        ]
        if found:
            more = len(found) - MAX_SHOWN_PROBLEMS
            raise DataError(
                "; ".join(found[:MAX_SHOWN_PROBLEMS])
                + (f"; and {more} more" if more > 0 else "")
                + "; nothing was deleted, because it is unknown which objects they name; restore"
                " these files, or delete their runs with `tuneloop runs delete`"
            )


def read_inventory(artifacts: str) -> Inventory:
    """List all objects below a prefix, and read what names them: manifests, records, aliases."""
    objects = tuple(list_objects(artifacts))
    names = [each.name for each in objects]
    problems: dict[str, str] = {}
    manifests = _read(artifacts, RunManifest, _matching(names, _RUN_MANIFEST), problems)
    records = _read(artifacts, Record, _matching(names, _RECORD), problems)
    models = _read(artifacts, ModelManifest, _matching(names, _MODEL_MANIFEST), problems)
    sweeps = _read(artifacts, SweepManifest, _matching(names, _SWEEP_MANIFEST), problems)
    rounds = _read(artifacts, RoundsManifest, _matching(names, _ROUNDS_MANIFEST), problems)
    by_run: dict[str, list[Record]] = {}
    for path, record in records.items():
        if (found := _RECORD.fullmatch(path)) and found.groups() != (record.run_id, record.stage):
            problems[path] = "the record belongs to another stage or run"
        by_run.setdefault(path.split("/")[1], []).append(record)
    runs = {}
    for run_id in dict.fromkeys(found[1] for name in names if (found := _RUN_FILE.fullmatch(name))):
        path = f"training_runs/{run_id}/run_manifest.json"
        manifest = manifests.get(path)
        if manifest is not None and manifest.run_id != run_id:
            problems[path] = "the manifest belongs to another run"
        if manifest is None and run_id in by_run:
            problems.setdefault(path, "is missing, but the run has records")
        runs[run_id] = KnownRun(run_id, manifest, tuple(by_run.get(run_id, ())))
    by_name = {path.split("/")[1]: manifest for path, manifest in models.items()}
    by_id = {path.split("/")[1]: manifest for path, manifest in sweeps.items()}
    in_rounds = {path.split("/")[1]: manifest for path, manifest in rounds.items()}
    aliases = read_aliases(artifacts, names, problems)
    baselines = read_baselines(artifacts, names, problems)
    starts = read_starts(artifacts, names, problems)
    return Inventory(
        artifacts, objects, runs, by_name, by_id, in_rounds, aliases, baselines, starts, problems
    )


def _matching(names: Iterable[str], pattern: re.Pattern[str]) -> list[str]:
    return [name for name in names if pattern.fullmatch(name)]


def _read(
    artifacts: str, model: type[M], names: list[str], problems: dict[str, str]
) -> dict[str, M]:
    """Read files of one class; one that cannot be read becomes a problem."""
    adapter, found = TypeAdapter(model), {}
    for name, data in zip(
        names, read_many([paths.join(artifacts, name) for name in names]), strict=True
    ):
        try:
            if data is not None:  # a missing file was deleted since the listing
                found[name] = adapter.validate_json(data)
        except ValidationError as e:
            problems[name] = first_error(e)
    return found
