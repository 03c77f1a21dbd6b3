"""run_manifest.json: the identity of a run, written before its first stage starts."""

from __future__ import annotations

import logging
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tuneloop import jsonl
from tuneloop.artifacts import layout
from tuneloop.artifacts.reading import read_model
from tuneloop.errors import DataError
from tuneloop.storage import files
from tuneloop.storage.sealed import Sealed, sealed

log = logging.getLogger(__name__)


class DatasetOfRun(BaseModel):
    """The dataset that a run was planned for."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    key: str
    build_id: str
    content_sha256: str = ""
    trace_count: int


class ModelOfRun(BaseModel):
    """The model that a run starts from."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    name: str | None
    """Name of the model; null for random weights."""
    family: str
    parameters: int | None = None
    """Number of parameters; null for random weights, whose vocabulary training determines."""
    dtype: str | None = None
    licence: str | None = None
    random_weights: bool
    """Whether the weights are random, or were random before this project's training."""
    digest: str | None = None
    """Digest of the model; null for random weights."""
    weights_bytes: int | None = None
    """Size of the files with weights; null for random weights."""
    place: str | None = None
    """URL of the folder that holds the model's files; null for random weights."""

    @property
    def words(self) -> str:
        """The model in one line, such as `smollm2 (llama3, 134,515,008 parameters, bfloat16)`."""
        if self.name is None:
            return f"random weights ({self.family}); it knows nothing before training"
        parts = [self.family]
        if self.parameters is not None:
            parts.append(f"{self.parameters:,} parameters")
        if self.dtype is not None:
            parts.append(self.dtype)
        parts.append(f"licence {self.licence}" if self.licence else "licence not stated")
        if self.random_weights:
            parts.append("tuned from random weights")
        return f"{self.name} ({', '.join(parts)})"


class RunManifest(Sealed, BaseModel):
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
    dataset: DatasetOfRun | None = None
    """Dataset of the run; null in a sampling run whose prompts come from elsewhere."""
    model: ModelOfRun | None = None
    """The model that the run starts from; null in manifests of older versions."""
    stages: dict[str, str]
    """Stage name -> fingerprint."""
    image: str | None = None
    """Container image of the stages; null if they run the code of the planning machine."""
    provenance: dict[str, Any] = {}
    """Code, library versions and host of the planner."""


def write_run_manifest(manifest: RunManifest, artifacts: str) -> str:
    """Publish the manifest of a run; create-only, so the first planner's is kept.

    A damaged one, or that of another run, is replaced.

    Returns:
        Its URL.
    """
    url = layout.run_manifest_url(artifacts, manifest.run_id)
    data = jsonl.dump_line(sealed(manifest.model_dump(mode="json")))
    if not files.publish(url, data) and not _is_usable(manifest, artifacts):
        files.write(url, data)
    return url


def _is_usable(planned: RunManifest, artifacts: str) -> bool:
    url = layout.run_manifest_url(artifacts, planned.run_id)
    try:
        stored = read_run_manifest(artifacts, planned.run_id)
    except DataError as e:
        log.warning("%s; written again", e)
        return False
    if stored is None or (stored.run_id, stored.stages) != (planned.run_id, planned.stages):
        log.warning("%s: was the manifest of another run; written again", url)
        return False
    return True


def read_run_manifest(artifacts: str, run_id: str) -> RunManifest | None:
    """Read the manifest of a run; None if there is none.

    Raises:
        DataError: it is torn or not a run manifest.
    """
    return read_model(RunManifest, layout.run_manifest_url(artifacts, run_id))
