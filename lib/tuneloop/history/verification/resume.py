"""Verify what unfinished stages go on from: checkpoints, metrics, claims and answers."""

from __future__ import annotations

import json

from pydantic import ValidationError

from tuneloop.errors import DataError
from tuneloop.history.verification.findings import Findings
from tuneloop.storage.sealed import SEAL, read_sealed_lines, unsealed
from tuneloop.training.sft.checkpoint.manifest import MANIFEST, ProcessFiles, parse_manifest
from tuneloop.validation import first_error


def verify_resume(findings: Findings, run_id: str, names: set[str]) -> None:
    """Verify the folder `train/resume` of a run.

    Args:
        findings: receives what is found.
        run_id: id of the run.
        names: paths of all files of the run, relative to the artifacts.
    """
    prefix = f"training_runs/{run_id}/train/resume/"
    own = {name for name in names if name.startswith(prefix)}
    if not own:
        return
    _metrics(findings, f"{prefix}metrics.jsonl", own)
    claims = sorted(name for name in own if name.startswith(f"{prefix}writers/"))
    if not claims:
        path = f"{prefix}writers/00000001.json"
        text = "is missing, expected the claim of the first attempt; the next one makes its own"
        findings.add(path, f"{findings.url(path)}: {text}")
    for path in claims:
        with findings.checking(path):
            _check_claim(findings.read_json(path), findings.url(path))
    folders = {name.removeprefix(f"{prefix}checkpoints/").split("/")[0] for name in own}
    for step in sorted(folders):
        if any(name.startswith(f"{prefix}checkpoints/{step}/") for name in own):
            _checkpoint(findings, f"{prefix}checkpoints/{step}", step, own)


def verify_batches(findings: Findings, run_id: str, names: set[str]) -> None:
    """Verify the answers of finished batches that stages keep, and the size of the batches.

    Args:
        findings: receives what is found.
        run_id: id of the run.
        names: paths of all files of the run, relative to the artifacts.
    """
    prefixes = tuple(f"training_runs/{run_id}/{stage}/resume/" for stage in ("eval", "sample"))
    for path in sorted(name for name in names if name.startswith(prefixes)):
        with findings.checking(path):
            try:
                value = json.loads(findings.read_json(path))
                if not isinstance(value, dict) or SEAL not in value:
                    raise ValueError("it has no seal")
                unsealed(value)
            except (ValueError, RecursionError) as e:
                raise DataError(
                    f"{findings.url(path)}: was changed ({e}); the next attempt does not use it"
                ) from e


def _metrics(findings: Findings, path: str, own: set[str]) -> None:
    url = findings.url(path)
    with findings.checking(path):
        data = findings.read_json(path)
        values, damaged = read_sealed_lines(data)
        if damaged is not None:
            raise DataError(
                f"{url}:{damaged}: was changed after it was written; training goes on with the"
                f" {len(values)} lines before"
            )
        if not all("step" in value and "validation_loss" in value for value in values):
            raise DataError(f"{url}: holds no metrics of a training; its checkpoints are not used")
        if not values and any("/checkpoints/" in name for name in own):
            raise DataError(f"{url}: is empty, so its checkpoints are not used")


def _check_claim(data: bytes, url: str) -> None:
    try:
        value = unsealed(json.loads(data))
        number = int(url.rpartition("/")[2].removesuffix(".json"))
        if "attempt" not in value or value.get("number", number) != number:
            raise ValueError("it is not this claim")
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise DataError(f"{url}: was changed ({e}); delete it") from e


def _checkpoint(findings: Findings, folder: str, step: str, own: set[str]) -> None:
    path = f"{folder}/{MANIFEST}"
    url = findings.url(path)
    if path not in own:
        findings.add(path, f"{url}: is missing, so the checkpoint is not used; it will be deleted")
        return
    with findings.checking(path):
        manifest = parse_manifest(findings.read_json(path), url)
        if str(manifest.step) != step:
            raise DataError(f"{url}: holds step {manifest.step}, expected step {step}; delete it")
        for file in manifest.files:
            findings.compare(f"{folder}/{file.name}", file.size_bytes, file.sha256)
    for name in sorted(own):
        if name.startswith(f"{folder}/") and name.endswith(".json") and name != path:
            with findings.checking(name):
                try:
                    ProcessFiles.model_validate_json(findings.read_json(name))
                except ValidationError as e:
                    text = f"{findings.url(name)}: {first_error(e)}; no reader needs it any more"
                    raise DataError(text) from e
