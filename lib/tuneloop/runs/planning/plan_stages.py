"""The parts that plans of all kinds of runs have in common: fingerprints, ids and places."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tuneloop import jsonl, provenance
from tuneloop.artifacts.runs.run_manifest import DatasetOfRun, ModelOfRun, RunManifest
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.errors import SpecError
from tuneloop.specs.run import ExecutionSpec
from tuneloop.specs.sampling import AnyRunSpec
from tuneloop.specs.stages import DatasetRef, EvalSetRef, StageSpec
from tuneloop.specs.training.architecture import Architecture
from tuneloop.stages.pipelines import planned_stages
from tuneloop.stages.sampling.row import SampleInputs
from tuneloop.stages.scoring.row import ScoreInputs
from tuneloop.stages.table import RunInputs, StageDef
from tuneloop.storage import paths


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """What plans of all kinds of runs have in common."""

    run_id: str
    spec: AnyRunSpec
    seed: int
    summary: DatasetOfRun | None
    """The dataset as the run manifest describes it; None if the prompts come from elsewhere."""
    model: ModelOfRun | None = None
    """The model that the run starts from or asks, as the run manifest describes it."""
    architecture: Architecture | None = None
    """Family and shape of that model."""
    stages: tuple[StageSpec, ...]
    """Stage specs in execution order."""
    recipe: str
    instruction: str | None
    eval_sets: tuple[EvalSetRef, ...] = ()
    """The eval sets that the run reads, in the order of the spec."""

    @property
    def artifacts(self) -> str:
        """URL of the prefix for all output."""
        return self.spec.execution.artifacts

    def manifest(self, image: str | None) -> RunManifest:
        """Build the run manifest.

        Args:
            image: container image of the stages; None if they run the code of this machine.
        """
        return RunManifest(
            run_id=self.run_id,
            spec=self.spec.model_dump(mode="json", by_alias=True),
            seed=self.seed,
            recipe=self.recipe,
            instruction=self.instruction,
            dataset=self.summary,
            model=self.model,
            stages={stage.stage: stage.fingerprint for stage in self.stages},
            image=image,
            provenance=provenance.gather(),
        )


CodeIdentity = Callable[[StageDef], str]
"""Returns the identity of the code that a stage runs."""


def code_of(image_digest: str | None) -> CodeIdentity:
    """Return the function that identifies the code of each stage.

    Args:
        image_digest: identity of the code that a cluster runs; None means the code of this
            machine.
    """
    return lambda row: image_digest or provenance.code_identity(row.module, row.lock)


def absolute_execution(execution: ExecutionSpec) -> ExecutionSpec:
    """Return execution settings in which local places are absolute.

    Raises:
        SpecError: a URL holds a password.
    """
    refuse_credentials("execution.artifacts", execution.artifacts)
    refuse_credentials("execution.store_url", execution.store_url)
    changes = {"artifacts": paths.absolute(execution.artifacts)}
    if execution.datasets_url is not None:
        changes["datasets_url"] = paths.absolute(execution.datasets_url)
    if execution.prices is not None:
        refuse_credentials("execution.prices", execution.prices)
        changes["prices"] = paths.absolute(execution.prices)
    return execution.model_copy(update=changes)


def refuse_credentials(field: str, url: str) -> None:
    """Refuse a URL with credentials: specs are copied into records, ConfigMaps and logs."""
    found = urlsplit(url)
    # Azure puts a container name before the @. Before a web server, a name alone is a credential.
    if found.password is not None or (found.username and found.scheme in ("http", "https")):
        raise SpecError(
            f"{field}: holds a name or password before the @, expected none, because specs are"
            " stored with the run; use TUNELOOP_STORE_TOKEN or the object store's own credentials,"
            " or on a cluster execution.cluster.store_token_secret and credentials_secret"
        )


def build_stages(
    inputs: RunInputs | SampleInputs | ScoreInputs, code: CodeIdentity
) -> tuple[str, tuple[StageSpec, ...]]:
    """Fingerprint every stage of a run, then name the run after all of them.

    Args:
        inputs: the spec and everything else that the results depend on.
        code: returns the identity of a stage's code.

    Returns:
        The run id, and the stage specs in execution order.
    """
    spec, fingerprints = inputs.spec, dict[str, str]()
    rows = planned_stages(spec)

    def upstream(row: StageDef) -> dict[str, str]:
        return {each: fingerprints[each] for each in row.upstream if each in fingerprints}

    for row in rows:
        identity = {
            "stage": row.name,
            "code": code(row),
            "identity": row.identity(inputs),
            "upstream": upstream(row),
            "inputs": row.inputs(inputs),
        }
        fingerprints[row.name] = _sha256(identity)
    run_id = f"{spec.name}-{_sha256({'stages': list(fingerprints.values())})[:8]}"
    return run_id, tuple(
        row.spec(
            run_id=run_id,
            fingerprint=fingerprints[row.name],
            upstream=upstream(row),
            seed=inputs.seed,
            dataset=inputs.dataset,
            execution=spec.execution,
            stage=row.name,
            **row.fields(inputs),
        )
        for row in rows
    )


def dataset_ref(manifest: DatasetManifest) -> DatasetRef:
    """Return the reference to a dataset that stage specs carry."""
    return DatasetRef(
        key=manifest.dataset_key,
        build_id=manifest.build_id,
        recipe=manifest.recipe,
        instruction=manifest.instruction,
    )


def dataset_of_run(manifest: DatasetManifest) -> DatasetOfRun:
    """Return a dataset as run manifests describe it."""
    return DatasetOfRun(
        key=manifest.dataset_key,
        build_id=manifest.build_id,
        content_sha256=manifest.content_sha256,
        trace_count=manifest.trace_count,
    )


def _sha256(value: dict[str, Any]) -> str:
    return hashlib.sha256(jsonl.dump_line(value)).hexdigest()
