"""run_manifest.json: the identity of a run, written before its first stage starts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tuneloop import jsonl
from tuneloop.artifacts import layout
from tuneloop.artifacts.reading import read_model
from tuneloop.storage import files


class DatasetOfRun(BaseModel):
    """The dataset that a run was planned for."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    key: str
    build_id: str
    content_sha256: str = ""
    trace_count: int


class RunManifest(BaseModel):
    """The identity of a run; keys of a newer tuneloop are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    schema_version: Literal["1"] = "1"
    run_id: str
    spec: dict[str, Any] = {}
    """The run spec as it was planned, defaults filled in."""
    seed: int
    recipe: str | None = None
    """Prompt template of the dataset."""
    instruction: str | None = None
    """Text appended to every prompt; null appends nothing."""
    dataset: DatasetOfRun
    stages: dict[str, str]
    """Stage name -> fingerprint."""
    image: str | None = None
    """Container image of the stages; null if they run the code of the planning machine."""
    provenance: dict[str, Any] = {}
    """Code, library versions and host of the planner."""


def write_run_manifest(manifest: RunManifest, artifacts: str) -> str:
    """Publish the manifest of a run; create-only, so the first planner's is kept.

    Returns:
        Its URL.
    """
    url = layout.run_manifest_url(artifacts, manifest.run_id)
    files.publish(url, jsonl.dump_line(manifest.model_dump(mode="json")))
    return url


def read_run_manifest(artifacts: str, run_id: str) -> RunManifest | None:
    """Read the manifest of a run; None if there is none.

    Raises:
        DataError: it is torn or not a run manifest.
    """
    return read_model(RunManifest, layout.run_manifest_url(artifacts, run_id))
