"""What the row of the sample stage takes from a plan: fields, identity and summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tuneloop.artifacts.results import SampleCounts, SampleResults
from tuneloop.specs.sampling import DatasetPrompts, SampleRunSpec
from tuneloop.specs.stages import DatasetRef, EvalSetRef, ModelRef, SampleStage

if TYPE_CHECKING:
    from tuneloop.artifacts.records import Record

Fields = dict[str, Any]


@dataclass(frozen=True)
class SampleInputs:
    """Everything outside the code that the results of a sampling run depend on."""

    spec: SampleRunSpec
    dataset: DatasetRef | None
    """The dataset of the prompts; None if they come from elsewhere."""
    seed: int
    model: ModelRef
    """The model that answers; its place is never part of the identity."""
    thinking: Literal["steps", "plain"]
    recipe: str
    instruction: str | None
    prompts_sha256: str | None
    """Digest of prompts that are in no dataset."""
    scorer_sha256: str | None
    """Digest of the Python file that scores."""
    apart_from: tuple[EvalSetRef, ...]
    """Eval sets that stay apart from the samples."""


def fields(inputs: SampleInputs) -> Fields:
    """Return the fields of the stage's spec besides those that every stage spec has."""
    return {
        "options": inputs.spec.sample,
        "model": inputs.model,
        "thinking": inputs.thinking,
        "recipe": inputs.recipe,
        "instruction": inputs.instruction,
        "system_instruction": inputs.spec.system_instruction,
        "prompts_sha256": inputs.prompts_sha256,
        "scorer_sha256": inputs.scorer_sha256,
        "apart_from": inputs.apart_from,
    }


def identity(inputs: SampleInputs) -> Fields:
    """Return contents instead of names and places of the model, the prompts and the scorer."""
    options = inputs.spec.sample
    prompts: Any = inputs.prompts_sha256
    if isinstance(options.prompts, DatasetPrompts):
        prompts = options.prompts.limit
    resolved = {"model", "prompts", "scorer", "recipe", "instruction", "thinking", "apart_from"}
    # Runs without a server have the identity that they had before there were servers.
    resolved |= {"backend"} if options.backend is None else set()
    scorer: Any = options.scorer
    if inputs.scorer_sha256 is not None:
        scorer = [str(scorer).rsplit("/", 1)[-1], inputs.scorer_sha256]
    return {
        **options.model_dump(mode="json", exclude=resolved),
        "model": inputs.model.digest,
        "prompts": prompts,
        "scorer": scorer,
        "recipe": inputs.recipe,
        "instruction": inputs.instruction,
        "thinking": inputs.thinking,
        "system_instruction": inputs.spec.system_instruction,
        "apart_from": sorted(each.prompts_sha256 for each in inputs.apart_from),
    }


def inputs_of(inputs: SampleInputs) -> Fields:
    """Return digests of outside inputs, and the seed."""
    dataset = {} if inputs.dataset is None else {"dataset": inputs.dataset.build_id}
    return {"seed": inputs.seed, **dataset}


def uses_store(spec: SampleStage) -> bool:
    """Return whether the stage reads its prompts from a trace store."""
    is_http = (spec.execution.datasets_url or "").startswith("http")
    return spec.dataset is not None and is_http


def summary(record: Record) -> str:
    """Describe a finished stage in one line."""
    counts, results = record.counts_as(SampleCounts), record.results_as(SampleResults)
    share = 100 * counts.correct / counts.samples
    return (
        f"{counts.samples} samples of {counts.prompts} prompts, {share:.1f} % correct, mean reward"
        f" {results.mean_reward:.3f}"
    )
