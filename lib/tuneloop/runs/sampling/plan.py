"""From a sampling spec to a plan: fingerprints, run id and stage specs, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuneloop.artifacts.run_manifest import ModelOfRun
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.datasets.source import DatasetSource
from tuneloop.errors import SpecError
from tuneloop.evaluation.scorers.user_file import UserScorer
from tuneloop.evaluation.sets.planned import load_scorer, read_kept_apart
from tuneloop.evaluation.sets.schema import EvalSetFile
from tuneloop.runs.base_model import FoundModel, describe_model, find_sampled_model
from tuneloop.runs.plan_stages import (
    PlannedRun,
    absolute_execution,
    build_stages,
    code_of,
    dataset_of_run,
    dataset_ref,
    refuse_credentials,
)
from tuneloop.specs.architecture import Architecture
from tuneloop.specs.compilation import TargetDevices
from tuneloop.specs.sampling import DatasetPrompts, FilePrompts, GymPrompts, SampleRunSpec
from tuneloop.specs.stages import EvalSetRef
from tuneloop.specs.target import StageNeeds
from tuneloop.stages.sampling.prompts import check_scorable, read_stated
from tuneloop.stages.sampling.row import SampleInputs
from tuneloop.training.prompt_templates import recipe_named

DEFAULT_RECIPE = "trace_sft_v1"
"""Recipe of prompts that are in no dataset."""


@dataclass(frozen=True, kw_only=True)
class SamplePlan(PlannedRun):
    """A planned sampling run; its eval sets stay apart from the samples."""

    spec: SampleRunSpec
    model: ModelOfRun
    architecture: Architecture
    prompts: int
    """Prompts that are asked at most."""

    def needs(self, devices: Mapping[str, TargetDevices | None]) -> dict[str, StageNeeds]:
        """Estimate what the stages need.

        Args:
            devices: stage -> its devices; None for a CPU.
        """
        from tuneloop.runs.cost.sample_needs import sample_needs  # needs a SamplePlan

        return sample_needs(self, devices)


def load_sample_plan(
    spec: SampleRunSpec, *, seed: int | None = None, image_digest: str | None = None
) -> SamplePlan:
    """Read the inputs of a plan, and build it.

    Args:
        spec: the spec.
        seed: seed that overrides the spec's.
        image_digest: identity of the code that a cluster runs; None means the code of this
            machine.

    Raises:
        DataError: the dataset, a file or the model is broken.
        InputMissing: a file, the dataset or the model is missing.
        SpecError: a URL holds a password, the recipe or the scorer is unknown, or a range of seeds
            overlaps that of an eval set.
        UsageError: the prompts need a package that is not installed.
    """
    spec = _with_absolute_places(spec)
    options = spec.sample
    model, thinking = find_sampled_model(options.model, spec.execution.artifacts)
    manifest = _dataset(spec)
    recipe, instruction = options.recipe, options.instruction
    if manifest is not None:
        recipe = recipe or manifest.recipe
        instruction = manifest.instruction if instruction is None else instruction
    recipe = recipe or DEFAULT_RECIPE
    recipe_named(recipe)
    scorer = load_scorer(options.scorer, "sample.scorer")
    sets = read_kept_apart(options.apart_from, "sample.apart_from")
    sha256, prompts = None, 0
    if not isinstance(options.prompts, DatasetPrompts):
        _check_seeds(options.prompts, sets)
        stated = read_stated(options.prompts)
        check_scorable(stated.items, scorer, "sample.prompts")
        sha256, prompts = stated.sha256, len(stated.items)
    elif manifest is not None:
        prompts = min(manifest.trace_count, options.prompts.limit or manifest.trace_count)
    inputs = SampleInputs(
        spec,
        None if manifest is None else dataset_ref(manifest),
        spec.seed if seed is None else seed,
        model=model.ref,
        thinking=options.thinking or thinking,
        recipe=recipe,
        instruction=instruction,
        prompts_sha256=sha256,
        scorer_sha256=scorer.sha256 if isinstance(scorer, UserScorer) else None,
        apart_from=tuple(ref for ref, _ in sets),
    )
    return _build_plan(inputs, manifest, model, prompts, image_digest)


def _build_plan(
    inputs: SampleInputs,
    manifest: DatasetManifest | None,
    model: FoundModel,
    prompts: int,
    image_digest: str | None,
) -> SamplePlan:
    run_id, stages = build_stages(inputs, code_of(image_digest))
    return SamplePlan(
        run_id=run_id,
        spec=inputs.spec,
        seed=inputs.seed,
        summary=None if manifest is None else dataset_of_run(manifest),
        model=describe_model(model),
        architecture=model.manifest.architecture,
        stages=stages,
        recipe=inputs.recipe,
        instruction=inputs.instruction,
        prompts=prompts,
        eval_sets=inputs.apart_from,
    )


def _with_absolute_places(spec: SampleRunSpec) -> SampleRunSpec:
    if isinstance(spec.sample.prompts, FilePrompts):
        refuse_credentials("sample.prompts.url", spec.sample.prompts.url)
    for number, url in enumerate(spec.sample.apart_from):
        refuse_credentials(f"sample.apart_from.{number}", url)
    return spec.model_copy(update={"execution": absolute_execution(spec.execution)})


def _dataset(spec: SampleRunSpec) -> DatasetManifest | None:
    """Read the manifest of the prompts' dataset; None if they come from elsewhere."""
    if not isinstance(spec.sample.prompts, DatasetPrompts):
        return None
    with DatasetSource(spec.execution.datasets) as source:
        return source.load_manifest(spec.sample.prompts.dataset)


def _check_seeds(
    prompts: FilePrompts | GymPrompts, sets: Sequence[tuple[EvalSetRef, EvalSetFile]]
) -> None:
    """Refuse a range of seeds that an eval set was generated from."""
    if not isinstance(prompts, GymPrompts):
        return
    for ref, file in sets:
        origin = file.header.generated if file.header else None
        if origin and origin.overlaps(prompts.task, prompts.first_seed, prompts.seeds):
            last = origin.first_seed + origin.seeds - 1
            raise SpecError(
                f"sample.prompts: seeds {prompts.first_seed} to"
                f" {prompts.first_seed + prompts.seeds - 1} of {prompts.task} overlap the eval set"
                f" {ref.url}, which was generated from the seeds {origin.first_seed} to {last},"
                f" expected other ones; set first_seed to {last + 1} or more"
            )
