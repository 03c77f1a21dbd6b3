"""Stage specs: the input of one stage process. A plan makes them from a run spec."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuneloop.specs.base import Seed, Spec
from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.export import ExportSpec
from tuneloop.specs.import_traces import ImportSpec
from tuneloop.specs.run import ExecutionSpec
from tuneloop.specs.sampling import SampleSpec
from tuneloop.specs.scoring import ScoreSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.storage.sealed import Sealed


class DatasetRef(Spec):
    """The dataset of a plan, identified by its content."""

    key: str
    """Key of the dataset, its folder under `<artifacts>/datasets/`."""
    build_id: str
    """Id of the dataset's content; a stage refuses a manifest with another id."""
    recipe: str
    """Name of the prompt template that turns traces into prompt and response."""
    instruction: str | None
    """Text appended to every prompt, in training and evaluation; null appends nothing."""


class ModelRef(Spec):
    """The stored or tuned model that a run starts from, identified by its content."""

    name: str
    """Name of the model, for messages."""
    folder: str
    """URL of the folder that holds the model's `manifest.json`."""
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    """Digest of the model; a stage refuses a manifest with another digest."""


class EvalSetRef(Spec):
    """An eval set of a run, identified by its content."""

    name: str
    """Name of the set in the run; unique."""
    stated: str | None = None
    """Name that the file states; null if it states none."""
    version: str | None = None
    """Version that the file states with its name."""
    url: str
    """URL of the file."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """sha256 of the file at planning time; a stage refuses another content."""
    prompts_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """sha256 of its ids and prompts; the export depends on nothing else of it."""
    scorer_sha256: str | None = None
    """sha256 of the Python file that scores it; null for a scorer of the table."""
    items: int = Field(ge=1)
    """Number of its questions; never part of the identity."""


class StageSpec(Spec, Sealed):
    """The input of one stage process, which reads it with `--spec URL`.

    Each row of `stages/table.py` names the subclass of its stage.
    """

    run_id: str
    """Id of the run."""
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    """Fingerprint of the stage; equal fingerprints give equal output bytes."""
    upstream: dict[str, str]
    """Fingerprints of the upstream stages, by stage name."""
    seed: Seed
    """Seed of the run."""
    dataset: DatasetRef | None = None
    """Dataset of the run; null in a sampling run whose prompts come from elsewhere."""
    execution: ExecutionSpec
    """Execution settings: storage, checkpoints and cluster."""
    stage: str
    """Name of the stage; each subclass fixes it."""


class ExportStage(StageSpec):
    """Stage spec of `export`."""

    stage: Literal["export"] = "export"
    dataset: DatasetRef
    """Dataset of the run."""
    options: ExportSpec
    """Options of the export stage."""
    eval_sets: tuple[EvalSetRef, ...] = Field(min_length=1)
    """Eval sets of the run, which must not be trained on."""
    model: ModelRef | None = None
    """Pretrained model that counts tokens; null means random weights, which have no tokenizer."""
    thinking: Literal["steps", "plain"] = "plain"
    """Thinking mode of the model, which decides how its tokens are counted."""
    tokenizer_sha256: str | None
    """sha256 of `options.tokenizer`; null if there is none."""
    system_instruction: str | None
    """System instruction counted in the tokens of every prompt; ignored without a tokenizer."""


class TrainStage(StageSpec):
    """Stage spec of `train`."""

    stage: Literal["train"] = "train"
    dataset: DatasetRef
    """Dataset of the run."""
    options: TrainSpec
    """Options of the train stage."""
    model: ModelRef | None = None
    """Model that training starts from; null draws random weights of the shape in `options`."""
    system_instruction: str | None
    """Text placed before every user message; null adds nothing."""


class EvalStage(StageSpec):
    """Stage spec of `eval`."""

    stage: Literal["eval"] = "eval"
    dataset: DatasetRef
    """Dataset of the run."""
    options: EvalSpec
    """Options of the eval stage."""
    eval_sets: tuple[EvalSetRef, ...] = Field(min_length=1)
    """Eval sets of the run, in the order of the options."""
    baselines: dict[str, ModelRef] = Field(default={})
    """Name in the options -> model that is asked beside the base and the tuned one."""
    model: ModelRef | None = None
    """Model that training started from; null means random weights, which the train stage wrote."""
    thinking: Literal["steps", "plain"] = "plain"
    """Thinking mode that the model was trained with; its prompts and answers have the same."""
    system_instruction: str | None
    """Text placed before every user message; null adds nothing."""


class SampleStage(StageSpec):
    """Stage spec of `sample`."""

    stage: Literal["sample"] = "sample"
    options: SampleSpec
    """Options of the sample stage."""
    model: ModelRef
    """Model that answers."""
    thinking: Literal["steps", "plain"]
    """Thinking mode of the model."""
    recipe: str
    """Prompt template that renders the prompts and parses the completions."""
    instruction: str | None
    """Text appended to every prompt; null appends nothing."""
    system_instruction: str | None
    """Text placed before every prompt; null adds nothing."""
    prompts_sha256: str | None
    """sha256 of the prompts at planning time; a stage refuses others. Null for a dataset, which
    `dataset.build_id` identifies."""
    scorer_sha256: str | None
    """sha256 of the Python file that scores; null for a scorer of the table."""
    apart_from: tuple[EvalSetRef, ...]
    """Eval sets that stay apart from the samples."""


class ScoreStage(StageSpec):
    """Stage spec of `score`."""

    stage: Literal["score"] = "score"
    dataset: DatasetRef
    """Dataset of the traces."""
    options: ScoreSpec
    """Options of the score stage."""
    criteria: str
    """Name of the scores."""
    expected: EvalSetRef | None
    """Eval set with the expected answers; null uses the meta of the traces alone."""
    scorer_sha256: str | None
    """sha256 of the Python file that scores; null for a scorer of the table."""


class ImportStage(StageSpec):
    """Stage spec of `import`."""

    stage: Literal["import"] = "import"
    options: ImportSpec
    """Options of the import stage."""


def dump_stage_spec(stage: StageSpec) -> bytes:
    """Serialize a stage spec to the JSON that its process reads with `--spec URL`."""
    return stage.model_dump_json(indent=1, by_alias=True).encode() + b"\n"
