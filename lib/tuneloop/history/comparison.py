"""Compare runs: what differs in spec, code and data, and the results side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuneloop.artifacts import layout
from tuneloop.errors import InputMissing
from tuneloop.history.cost import account
from tuneloop.history.cost.prices import PricesOf
from tuneloop.history.stored import StoredRun, read_run

NONE = "-"
"""Stands for a value that a run does not have."""
_RESULTS = (
    ("train", "loss_first"),
    ("train", "loss_last"),
    ("train", "validation_loss_best"),
    ("eval", "accuracy_base"),
    ("eval", "accuracy_tuned"),
    ("eval", "gain_low"),
    ("eval", "gain_high"),
    ("eval", "verdict"),
    ("sample", "mean_reward"),
    ("sample", "all_correct"),
    ("sample", "none_correct"),
    ("score", "mean"),
)
_COUNTS = (
    ("export", "examples"),
    ("export", "excluded"),
    ("train", "steps"),
    ("train", "trained_tokens"),
    ("train", "parameters"),
    ("eval", "items"),
    ("eval", "regressions"),
    ("sample", "prompts"),
    ("sample", "samples"),
    ("sample", "correct"),
    ("sample", "truncated"),
    ("score", "traces"),
    ("score", "scored"),
)


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; each value is text, in the order of the runs."""

    run_ids: tuple[str, ...]
    spec: dict[str, tuple[str, ...]]
    """Field of the spec, such as `train.steps` -> its values, if they differ."""
    identity: dict[str, tuple[str, ...]]
    """Part of the identity of code and data -> its values, if they differ."""
    results: dict[str, tuple[str, ...]]
    """Result -> its values, if any run has it."""
    machines: dict[str, tuple[str, ...]]
    """Figure of what the runs have taken on a cluster -> its values, if any run was there."""

    @property
    def sections(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """The parts by title; machines are one of them only if a run was on a cluster."""
        parts = {"spec": self.spec, "code and data": self.identity, "results": self.results}
        return parts | ({"machines": self.machines} if self.machines else {})

    def as_json(self) -> dict[str, Any]:
        """Return the comparison for `--json`."""
        return {"runs": list(self.run_ids), **self.sections}


def compare_runs(
    artifacts: str,
    run_ids: Sequence[str],
    *,
    now: datetime,
    prices_of: PricesOf = lambda manifest: None,
) -> Comparison:
    """Compare runs.

    Args:
        artifacts: URL of the artifacts prefix.
        run_ids: ids of at least two runs.
        now: the current time, which tells a running stage from a stopped one.
        prices_of: returns the prices for a run.

    Raises:
        InputMissing: there is no such run, or it has no readable manifest.
    """
    runs = [_required(artifacts, run_id, now) for run_id in run_ids]
    specs = [flatten(run.manifest.spec if run.manifest else {}) for run in runs]
    identities = [_identity(run) for run in runs]
    results = [_results(run) for run in runs]
    machines = [_machines(artifacts, run, prices_of) for run in runs]
    return Comparison(
        tuple(run_ids),
        _differing(specs),
        _differing(identities),
        _side_by_side(results),
        _side_by_side(machines),
    )


def _required(artifacts: str, run_id: str, now: datetime) -> StoredRun:
    run = read_run(artifacts, run_id, now=now)
    if run is None or run.manifest is None:
        said = run.problem if run else "missing, expected a run"
        raise InputMissing(
            f"{layout.run_prefix(artifacts, run_id)}: {said.rstrip('.')}; check the run id and"
            " --artifacts"
        )
    return run


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the fields of nested mappings by their path, such as `train.optimizer.kind`.

    In a list of mappings, the number of each is a part of the path, such as `eval.sets.0.url`.
    """
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= flatten(part, f"{prefix}.{key}" if prefix else str(key))
    return found


def _identity(run: StoredRun) -> dict[str, Any]:
    """Return what identifies code, image and data of a run."""
    manifest = run.manifest
    if manifest is None:
        return {}
    dataset = manifest.dataset
    found = {
        "seed": manifest.seed,
        "image": manifest.image,
        "dataset": dataset.key if dataset else None,
        "dataset build": dataset.build_id if dataset else None,
        "dataset content": dataset.content_sha256 if dataset else None,
        "base model": manifest.model.name if manifest.model else None,
        "base model digest": manifest.model.digest if manifest.model else None,
    }
    found |= flatten(manifest.provenance)
    found |= {f"fingerprint of {stage}": mark for stage, mark in manifest.stages.items()}
    return found


def _results(run: StoredRun) -> dict[str, Any]:
    found: dict[str, Any] = {"state": run.state}
    records = {stage.name: stage.record for stage in run.stages if stage.record}
    for stage, name in _COUNTS:
        if stage in records:
            found[f"{stage} {name}"] = records[stage].counts.get(name)
    for stage, name in _RESULTS:
        if stage in records:
            found[f"{stage} {name}"] = records[stage].results.get(name)
    categories = run.result("eval", "by_category")
    for name, pair in categories.items() if isinstance(categories, dict) else ():
        found[f"accuracy of {name}"] = " -> ".join(map(_text, pair)) if pair else None
    for stage, record in records.items():
        found[f"{stage} seconds"] = record.seconds
    return found


def _machines(artifacts: str, run: StoredRun, prices_of: PricesOf) -> dict[str, str]:
    prices = prices_of(run.manifest)
    return account.totals(account.taken_by(run, artifacts, prices), prices)


def _differing(columns: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    rows = _side_by_side(columns)
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _side_by_side(columns: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: tuple(_text(column.get(name)) for column in columns) for name in names}
    return {name: values for name, values in rows.items() if set(values) != {NONE}}


def _text(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
