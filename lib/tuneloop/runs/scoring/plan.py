"""From a scoring spec to a plan: fingerprints, run id and stage specs, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuneloop.artifacts.runs.run_manifest import DatasetOfRun
from tuneloop.datasets.source import DatasetSource
from tuneloop.evaluation.scorers.scoring import check_allowed, scorer_of
from tuneloop.evaluation.scorers.user_file import UserScorer
from tuneloop.evaluation.sets.planned import load_scorer, read_kept_apart
from tuneloop.evaluation.trace_scores import criteria_of
from tuneloop.runs.planning.plan_stages import (
    PlannedRun,
    absolute_execution,
    build_stages,
    code_of,
    dataset_of_run,
    dataset_ref,
    refuse_credentials,
)
from tuneloop.specs.scoring import ScoreRunSpec
from tuneloop.specs.target import StageNeeds
from tuneloop.specs.training.compilation import TargetDevices
from tuneloop.stages.scoring.row import ScoreInputs


@dataclass(frozen=True, kw_only=True)
class ScorePlan(PlannedRun):
    """A planned scoring run, which has no model; its eval set has the expected answers."""

    spec: ScoreRunSpec
    summary: DatasetOfRun

    def needs(self, devices: Mapping[str, TargetDevices | None]) -> dict[str, StageNeeds]:
        """Return what the stages need; scorers need no more than the defaults of a pod.

        Args:
            devices: stage -> its devices; None for a CPU.
        """
        return {stage.stage: StageNeeds() for stage in self.stages}


def load_score_plan(
    spec: ScoreRunSpec, *, seed: int | None = None, image_digest: str | None = None
) -> ScorePlan:
    """Read the inputs of a plan, and build it.

    Args:
        spec: the spec.
        seed: seed that overrides the spec's.
        image_digest: identity of the code that a cluster runs; None means the code of this
            machine.

    Raises:
        DataError: the dataset or the eval set is broken.
        InputMissing: the dataset, the eval set or the scorer's file is missing.
        SpecError: a URL holds a password, or the scorer is unknown or not allowed.
    """
    options = spec.score
    if options.expected is not None:
        refuse_credentials("score.expected", options.expected)
    spec = spec.model_copy(update={"execution": absolute_execution(spec.execution)})
    scorer = load_scorer(options.scorer, "score.scorer")
    check_allowed(scorer_of(scorer), ())
    expected = () if options.expected is None else (options.expected,)
    sets = tuple(ref for ref, _ in read_kept_apart(expected, "score.expected"))
    with DatasetSource(spec.execution.datasets) as source:
        manifest = source.load_manifest(options.dataset)
    inputs = ScoreInputs(
        spec,
        dataset_ref(manifest),
        spec.seed if seed is None else seed,
        options.criteria or criteria_of(scorer),
        sets[0] if sets else None,
        scorer.sha256 if isinstance(scorer, UserScorer) else None,
    )
    run_id, stages = build_stages(inputs, code_of(image_digest))
    return ScorePlan(
        run_id=run_id,
        spec=spec,
        seed=inputs.seed,
        summary=dataset_of_run(manifest),
        stages=stages,
        recipe=manifest.recipe,
        instruction=manifest.instruction,
        eval_sets=sets,
    )
