"""What a metrics sink is told about a run besides its curves: parameters, tags and links."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.run_manifest import RunManifest
from tuneloop.specs.stages import StageSpec
from tuneloop.storage import paths

PARAMETER_CHARACTERS = 500
"""Maximum length of a parameter's value; servers before MLflow 2.8 refuse longer ones."""


@dataclass(frozen=True)
class Facts:
    """Description of one run."""

    run_id: str
    source_id: str
    """Identifies the run on the server: its id, and the place of its artifacts, because two people
    can have runs of the same id."""
    parameters: Mapping[str, str]
    tags: Mapping[str, str]


def build_facts(
    spec: StageSpec, manifest: RunManifest | None, provenance: Mapping[str, Any]
) -> Facts:
    """Build the description of the run of a stage.

    Args:
        spec: spec of the stage that sends.
        manifest: manifest of the run, with the whole run spec; None if there is none.
        provenance: code and versions of this process.
    """
    folder = layout.run_prefix(spec.execution.artifacts, spec.run_id)
    page = paths.join(spec.execution.store_url, "runs", quote(spec.run_id, safe=""))
    # `execution` is no parameter: it may change between two attempts, and a parameter may not.
    told = {} if manifest is None else manifest.spec
    parameters = {key: value for key, value in told.items() if key not in ("execution", "name")}
    parameters["seed"] = spec.seed
    dataset = spec.dataset
    if dataset is not None:
        parameters["dataset"] = dataset.key
    tags = {
        "mlflow.source.name": "tuneloop",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": provenance.get("git_commit"),
        "mlflow.note.content": f"[Page of the run]({page}), files: `{folder}`",
        "tuneloop.run_id": spec.run_id,
        "tuneloop.stage": spec.stage,
        "tuneloop.fingerprint": spec.fingerprint,
        "tuneloop.dataset": dataset.key if dataset else None,
        "tuneloop.dataset_build": dataset.build_id if dataset else None,
        "tuneloop.version": provenance.get("libraries", {}).get("tuneloop"),
        "tuneloop.git_dirty": provenance.get("git_dirty"),
        "tuneloop.image": provenance.get("image_digest"),
        "tuneloop.artifacts": folder,
        "tuneloop.page": page,
    }
    return Facts(
        spec.run_id,
        hashlib.sha256(folder.encode()).hexdigest(),
        dict(_flat(parameters, "")),
        {key: _text(value) for key, value in tags.items() if value is not None},
    )


def _flat(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings with dotted names."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            text = _text(inner)
            is_long = len(text) > PARAMETER_CHARACTERS
            yield f"{prefix}{key}", text[: PARAMETER_CHARACTERS - 1] + "…" if is_long else text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
