"""Stage specs: what one stage process is told. A plan makes them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuneloop.specs.base import Seed, Spec
from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.export import ExportSpec
from tuneloop.specs.import_traces import ImportSpec
from tuneloop.specs.run import ExecutionSpec
from tuneloop.specs.training import TrainSpec


class DatasetRef(Spec):
    """The dataset a plan was made for, by content."""

    key: str
    """Its key: the folder under <artifacts>/datasets/."""
    build_id: str
    """Names the content; a stage refuses a manifest with another."""
    recipe: str
    """How traces become prompt and response."""
    instruction: str | None
    """Put behind every prompt, in training and evaluation alike."""


class StageSpec(Spec):
    """What one stage process needs to know; a plan makes it, the process reads `--spec URL`.

    `stages/table.py` has a row for each stage, which names its subclass.
    """

    run_id: str
    """The run it belongs to."""
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    """Names the result: same fingerprint, same bytes."""
    upstream: dict[str, str]
    """Fingerprints of the stages it reads, by stage name."""
    seed: Seed
    """The run's seed."""
    dataset: DatasetRef
    """The dataset at the loop's start."""
    execution: ExecutionSpec
    """Where it runs."""
    stage: str
    """Name of the stage; each subclass fixes its own."""


class ExportStage(StageSpec):
    """Stage spec of `export`."""

    stage: Literal["export"] = "export"
    options: ExportSpec
    eval_set: str
    """URL of the eval set that must not be trained on."""
    eval_prompts_sha256: str
    """Digest of that set's prompts, all that the export depends on."""
    tokenizer_sha256: str | None
    """Digest of the tokenizer that lengths are counted with."""
    system_instruction: str | None
    """Counted with every prompt where there is a tokenizer."""
    model_family: str
    """Whose turns are counted where there is a tokenizer."""


class TrainStage(StageSpec):
    """Stage spec of `train`."""

    stage: Literal["train"] = "train"
    options: TrainSpec
    system_instruction: str | None


class EvalStage(StageSpec):
    """Stage spec of `eval`."""

    stage: Literal["eval"] = "eval"
    options: EvalSpec
    eval_set_sha256: str
    """Digest of the eval set that was planned with."""
    system_instruction: str | None


class ImportStage(StageSpec):
    """Stage spec of `import`."""

    stage: Literal["import"] = "import"
    options: ImportSpec


def dump_stage_spec(stage: StageSpec) -> bytes:
    """Serialize a stage spec as its process reads it, `--spec URL`."""
    return stage.model_dump_json(indent=1, by_alias=True).encode() + b"\n"
