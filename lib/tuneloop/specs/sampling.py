"""The sampling spec: completions of one model to many prompts, scored and kept as traces."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tuneloop.specs.answer_backend import BackendSpec
from tuneloop.specs.base import Seed, Spec
from tuneloop.specs.import_traces import ImportSpec
from tuneloop.specs.run import ExecutionSpec, RunSpec
from tuneloop.specs.scoring import ScoreRunSpec
from tuneloop.specs.training.model import PretrainedModelSpec

MODEL = "model"
"""Name of the only model of a sampling run."""
KEY = "sample"
"""Key at the top of a spec file, by which it is recognised."""


class BaseOfRunSpec(Spec):
    """The model that a finished run started from, such as its random weights."""

    kind: Literal["base"]
    run: str = Field(pattern=r"^[a-z0-9][-a-z0-9]{0,99}$")
    """Id of a run with a finished train stage."""


SampledModelSpec = Annotated[PretrainedModelSpec | BaseOfRunSpec, Field(discriminator="kind")]
"""The model that answers."""


class DatasetPrompts(Spec):
    """The prompts of a built dataset; the expected answer is the trace's final answer.

    A prompt that several traces have, with the same system message and earlier turns, is asked
    once. If their final answers differ, the prompt is not asked, because the right answer is not
    known. Neither is a trace whose answer follows calls of tools. The record counts both.
    """

    kind: Literal["dataset"]
    dataset: str = Field(min_length=1, max_length=200)
    """Key of the dataset, its folder under `<artifacts>/datasets/`."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of prompts, taken from the start of the dataset; null takes all."""


class FilePrompts(Spec):
    """The items of a JSONL file in the form of an eval set."""

    kind: Literal["file"]
    url: str = Field(min_length=1)
    """URL of the file; the content enters the fingerprint, the location does not."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of prompts, taken from the start of the file; null takes all."""


class GymPrompts(Spec):
    """Problems of a task of reasoning-gym: one for each seed of a range.

    Questions that an earlier seed has drawn already are not asked again, so that a range may give
    fewer prompts than it has seeds. Needs the package reasoning-gym where the run is planned and
    where it samples.
    """

    kind: Literal["reasoning_gym"]
    task: str = Field(min_length=1, max_length=100)
    """Name of the task, such as `chain_sum`."""
    first_seed: Seed
    """First seed of the range; a range must not overlap the seeds of an eval set in `apart_from`
    that was generated from the same task."""
    seeds: int = Field(ge=1, le=1_000_000)
    """Number of seeds in the range."""


PromptSource = Annotated[
    DatasetPrompts | FilePrompts | GymPrompts,
    Field(discriminator="kind"),
]
"""Where the prompts and the expected answers come from."""


class DrawSpec(Spec):
    """Prompts, and the completions that are drawn and scored for each."""

    prompts: PromptSource
    """Prompts and expected answers."""
    completions: int = Field(default=4, ge=1, le=1000)
    """Completions of each prompt; more than one needs a temperature above 0."""
    temperature: float = Field(default=1.0, ge=0, le=10)
    """0 takes the most probable token each time; a higher value draws tokens with random numbers
    that follow from the seed, the prompt's id and the number of the completion."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Maximum tokens of a completion; a longer one is cut and counted as truncated."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 64
    """Maximum completions per generation batch; a larger batch is faster and needs more device
    memory. `auto` chooses it from the memory of the device and the shape of the model."""
    scorer: str | dict[str, Any] = "exact_match"
    """Scorer of prompts that name none: a name, an object with `kind` and its options, or the URL
    of a Python file; the content of the file enters the fingerprint."""

    @model_validator(mode="after")
    def _completions_differ(self) -> Self:
        if self.completions > 1 and self.temperature == 0:
            raise ValueError(
                f"completions is {self.completions}, expected a temperature above 0 with it,"
                " because all completions at temperature 0 are the same"
            )
        return self


class SampleSpec(DrawSpec):
    """How completions are drawn and scored."""

    model: SampledModelSpec
    """Model that answers."""
    recipe: str | None = None
    """Prompt template that renders the prompts and parses the completions; null takes that of the
    dataset, or `trace_sft_v1` for other prompts."""
    instruction: str | None = None
    """Text appended to every prompt; null takes that of the dataset, or none for other prompts."""
    thinking: Literal["steps", "plain"] | None = None
    """Thinking mode of the model, as in `train.thinking`; null takes the mode that the model's run
    was trained with, or `plain` for a stored model."""
    apart_from: tuple[str, ...] = Field(default=(), max_length=100)
    """URLs of eval sets that stay apart from the samples: their prompts are never asked, and a
    range of seeds that overlaps theirs is refused."""
    backend: BackendSpec | None = None
    """Server that draws the completions, as in `eval.backend`; `models` names the model on the
    server: `{model: NAME}`. Null lets the stage generate itself."""
    round: int | None = Field(default=None, ge=1)
    """Number of the round that the samples belong to, which every trace states; null for none."""

    @model_validator(mode="after")
    def _server_has_the_model(self) -> Self:
        if self.backend is not None and self.backend.models.keys() != {MODEL}:
            found = ", ".join(self.backend.models)
            raise ValueError(
                f"backend.models has {found}, expected one key, `{MODEL}`: the name of the model on"
                " the server"
            )
        return self


class SampleRunSpec(Spec):
    """A sampling run: completions of one model, scored and written as traces."""

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$")
    """First part of the run id: lower-case letters, digits and dashes, starting with a letter."""
    sample: SampleSpec
    """Options of the sample stage."""
    seed: Seed = 0
    """Seed of the completions."""
    system_instruction: str | None = None
    """Text placed before every prompt; null adds nothing. Use the one that the model was trained
    with."""
    import_: ImportSpec | None = Field(default=None, alias="import")
    """Options of the import stage, which posts the traces to the trace store; null plans no such
    stage, and `{}` plans it with the defaults."""
    execution: ExecutionSpec = ExecutionSpec()
    """Execution settings: storage and cluster; never part of the fingerprint."""


AnyRunSpec = RunSpec | SampleRunSpec | ScoreRunSpec
"""A spec of any kind of run."""
