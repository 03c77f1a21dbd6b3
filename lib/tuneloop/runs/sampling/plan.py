"""From a sampling spec to a plan: fingerprints, run id and stage specs, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuneloop.artifacts.runs.run_manifest import ModelOfRun
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.datasets.source import DatasetSource
from tuneloop.errors import DataError, SpecError
from tuneloop.evaluation.scorers.scoring import ScorerName
from tuneloop.evaluation.scorers.user_file import UserScorer
from tuneloop.evaluation.sets.planned import load_scorer, read_kept_apart
from tuneloop.evaluation.sets.schema import EvalSetFile
from tuneloop.runs.planning.base_model import FoundModel, describe_model, find_sampled_model
from tuneloop.runs.planning.plan_stages import (
    PlannedRun,
    absolute_execution,
    build_stages,
    code_of,
    dataset_of_run,
    dataset_ref,
    refuse_credentials,
)
from tuneloop.specs.sampling import DatasetPrompts, DrawSpec, FilePrompts, GymPrompts, SampleRunSpec
from tuneloop.specs.stages import EvalSetRef
from tuneloop.specs.target import StageNeeds
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.compilation import TargetDevices
from tuneloop.stages.sampling.prompts import (
    UNNAMED,
    ApartPrompts,
    StatedPrompts,
    check_scorable,
    read_stated,
)
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


@dataclass(frozen=True)
class PlannedPrompts:
    """What is known about prompts when a run is planned."""

    scorer: ScorerName
    sets: tuple[tuple[EvalSetRef, EvalSetFile], ...]
    """Eval sets that stay apart from the prompts."""
    stated: StatedPrompts | None
    """The prompts; None if they are in a dataset, which only the stage reads."""


def read_planned_prompts(
    draw: DrawSpec, apart_from: Sequence[str], place: str = "sample"
) -> PlannedPrompts:
    """Read prompts, and refuse those that the sample stage would refuse.

    Args:
        draw: where the prompts come from, and their scorer.
        apart_from: URLs of the eval sets that stay apart from them.
        place: keys that lead to `draw` in the spec, for messages.

    Raises:
        DataError: a file is broken, or every prompt is in an eval set.
        InputMissing: a file is missing.
        SpecError: the scorer is unknown, or a range of seeds overlaps that of an eval set.
        UsageError: the prompts need a package that is not installed.
    """
    scorer = load_scorer(draw.scorer, f"{place}.scorer")
    sets = tuple(read_kept_apart(apart_from, f"{place}.apart_from"))
    if isinstance(draw.prompts, DatasetPrompts):
        return PlannedPrompts(scorer, sets, None)
    _check_seeds(draw.prompts, sets, place)
    stated = read_stated(draw.prompts)
    check_scorable(stated.items, scorer, f"{place}.prompts")
    apart = ApartPrompts(item.to_item(ref.name) for ref, file in sets for item in file.items)
    if all(item.to_item(UNNAMED) in apart for item in stated.items):
        raise DataError(
            f"{place}.prompts: all {len(stated.items)} prompts are in the eval sets"
            f" {', '.join(apart_from)}, expected at least one that is in none; give other prompts"
        )
    return PlannedPrompts(scorer, sets, stated)


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
    read = read_planned_prompts(options, options.apart_from)
    scorer, sets, stated = read.scorer, read.sets, read.stated
    sha256, prompts = None, 0
    if stated is not None:
        sha256, prompts = stated.sha256, len(stated.items)
    elif manifest is not None and isinstance(options.prompts, DatasetPrompts):
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
    prompts: FilePrompts | GymPrompts,
    sets: Sequence[tuple[EvalSetRef, EvalSetFile]],
    place: str = "sample",
) -> None:
    """Refuse a range of seeds that an eval set was generated from."""
    if not isinstance(prompts, GymPrompts):
        return
    for ref, file in sets:
        origin = file.header.generated if file.header else None
        if origin and origin.overlaps(prompts.task, prompts.first_seed, prompts.seeds):
            last = origin.first_seed + origin.seeds - 1
            raise SpecError(
                f"{place}.prompts: seeds {prompts.first_seed} to"
                f" {prompts.first_seed + prompts.seeds - 1} of {prompts.task} overlap the eval set"
                f" {ref.url}, which was generated from the seeds {origin.first_seed} to {last},"
                f" expected other ones; set first_seed to {last + 1} or more"
            )
