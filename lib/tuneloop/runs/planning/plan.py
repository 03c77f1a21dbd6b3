"""From a run spec to a plan: fingerprints, run id and stage specs, before anything runs.

`build_plan` is pure. The same spec, seed, code and inputs give the same run id, so running a spec
again continues its run. A changed spec is another run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tuneloop import resources
from tuneloop.artifacts import records
from tuneloop.artifacts.runs import run_manifest
from tuneloop.artifacts.runs.run_manifest import DatasetOfRun, ModelOfRun
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.datasets.source import DatasetSource
from tuneloop.errors import InputMissing, SpecError
from tuneloop.evaluation.sets.planned import read_sets
from tuneloop.evaluation.sets.versions import check_versions, record_versions
from tuneloop.runs.planning.base_model import (
    FoundModel,
    find_base_model,
    find_baselines,
    model_of_run,
)
from tuneloop.runs.planning.plan_stages import (
    CodeIdentity,
    PlannedRun,
    absolute_execution,
    build_stages,
    code_of,
    dataset_of_run,
    dataset_ref,
    refuse_credentials,
)
from tuneloop.specs.run import RunSpec
from tuneloop.specs.stages import StageSpec
from tuneloop.specs.target import StageNeeds
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.compilation import TargetDevices
from tuneloop.specs.training.model import RandomModelSpec
from tuneloop.stages.table import RunInputs
from tuneloop.storage import files
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.prompt_templates import recipe_named
from tuneloop.training.sft.earlier import find_earlier_run

if TYPE_CHECKING:
    from tuneloop.runs.sampling.plan import SamplePlan
    from tuneloop.runs.scoring.plan import ScorePlan


@dataclass(frozen=True, kw_only=True)
class Plan(PlannedRun):
    """A planned training run."""

    spec: RunSpec
    summary: DatasetOfRun
    model: ModelOfRun
    architecture: Architecture
    """Family and shape of the model that the run starts from; with random weights, the vocabulary
    is the largest that the tokenizer's training may make."""

    def needs(self, devices: Mapping[str, TargetDevices | None]) -> dict[str, StageNeeds]:
        """Estimate what the stages need.

        Args:
            devices: stage -> its devices; None for a CPU.

        Raises:
            SpecError: the batch, the mesh or the model does not fit the devices.
        """
        from tuneloop.runs.cost.needs import stage_needs  # needs a Plan

        return stage_needs(self, devices)


def load_plan(spec: RunSpec, *, seed: int | None = None, image_digest: str | None = None) -> Plan:
    """Read the inputs of a plan, and build it.

    Args:
        spec: the run spec.
        seed: seed that overrides the spec's, which overrides the dataset's.
        image_digest: identity of the code that a cluster runs; None means the code of this
            machine.

    Raises:
        DataError: the dataset or the eval set is broken.
        InputMissing: the eval set, the model, or the run to continue is missing.
        SpecError: a URL holds a password, the recipe or the scorer is unknown, or the run to
            continue has other options.
    """
    spec = _with_absolute_places(spec)
    with DatasetSource(spec.execution.datasets) as source:
        manifest = source.load_manifest(spec.dataset)
    recipe_named(manifest.recipe)
    seed = next(s for s in (seed, spec.seed, manifest.seed) if s is not None)

    find_earlier_run(
        spec.train,
        seed=seed,
        system_instruction=spec.system_instruction,
        artifacts=spec.execution.artifacts,
    )
    model = find_base_model(spec.train.model, spec.execution.artifacts)
    inputs = _read_inputs(spec, manifest, seed, model)
    code = code_of(image_digest)
    return build_plan(inputs, manifest, code, model_of_run(spec.train.model, model))


def _with_absolute_places(spec: RunSpec) -> RunSpec:
    for number, each in enumerate(spec.eval.all_sets):
        refuse_credentials(spec.eval.option_of(number, "url"), each.url)
    return spec.model_copy(update={"execution": absolute_execution(spec.execution)})


def _read_inputs(
    spec: RunSpec, manifest: DatasetManifest, seed: int, model: FoundModel | None
) -> RunInputs:
    """Digest the outside inputs, and validate the eval sets before training, not after it."""
    eval_sets = read_sets(spec.eval)
    check_versions(eval_sets, spec.execution.artifacts)
    tokenizer = None
    if spec.export.tokenizer is not None:
        found = _read_input(spec.export.tokenizer, "a tokenizer", "export.tokenizer")
        tokenizer = hashlib.sha256(found).hexdigest()
    return RunInputs(
        spec,
        dataset_ref(manifest),
        seed,
        eval_sets=eval_sets,
        baselines=find_baselines(
            spec.eval.baselines, spec.execution.artifacts, model.ref if model else None
        ),
        tokenizer_sha256=tokenizer,
        model=model.manifest if model else None,
        model_ref=model.ref if model else None,
    )


def _read_input(url: str, what: str, option: str) -> bytes:
    try:
        return files.read(resources.input_url(url))
    except FileNotFoundError as e:
        raise InputMissing(
            f"{url}: missing, expected {what}; put it there, or change {option}"
        ) from e


def build_plan(
    inputs: RunInputs, manifest: DatasetManifest, code: CodeIdentity, model: ModelOfRun
) -> Plan:
    """Fingerprint every stage, then name the run after all of them.

    Args:
        inputs: the run spec and everything else that the results depend on.
        manifest: manifest of the dataset.
        code: returns the identity of a stage's code.
        model: the model that the run starts from, for its manifest.
    """
    run_id, stages = build_stages(inputs, code)
    return Plan(
        run_id=run_id,
        spec=inputs.spec,
        seed=inputs.seed,
        summary=dataset_of_run(manifest),
        model=model,
        architecture=_architecture(inputs),
        stages=stages,
        recipe=manifest.recipe,
        instruction=manifest.instruction,
        eval_sets=inputs.eval_sets,
    )


def _architecture(inputs: RunInputs) -> Architecture:
    train = inputs.spec.train
    if inputs.model is not None:
        return inputs.model.architecture
    if not isinstance(train.model, RandomModelSpec):
        raise SpecError("train.model: the model is not known, expected its manifest; plan again")
    return random_architecture(train.model, train.tokenizer.vocab_size)


State = Literal["done", "cached", "to run"]


def stage_state(stage: StageSpec) -> State:
    """Return whether a stage has its record, can adopt another run's, or has to run."""
    artifacts = stage.execution.artifacts
    if records.find(artifacts, stage.run_id, stage.stage) is not None:
        return "done"
    if records.find_cached(artifacts, stage.fingerprint, stage.stage) is not None:
        return "cached"
    return "to run"


def write_run_manifest(plan: Plan | SamplePlan | ScorePlan, *, image: str | None = None) -> str:
    """Write the manifest of a run, before its first stage, and record the versions of its sets.

    Args:
        plan: the run.
        image: container image of the stages; None if they run the code of this machine.

    Returns:
        The URL of the manifest.
    """
    record_versions(plan.eval_sets, plan.artifacts)
    return run_manifest.write_run_manifest(plan.manifest(image), plan.artifacts)
