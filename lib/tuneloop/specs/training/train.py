"""Options of the train stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tuneloop.specs.base import Spec
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.mesh import MeshSizes, MeshSpec
from tuneloop.specs.training.method import FullMethod, MethodSpec
from tuneloop.specs.training.model import ModelSpec, RandomModelSpec, TokenizerSpec
from tuneloop.specs.training.optimizer import AdamWSpec, OptimizerSpec

PRETRAINED_LEARNING_RATE = 2e-5
"""Default peak when all weights of a pretrained model are trained."""
ADAPTER_LEARNING_RATE = 2e-4
"""Default peak when adapters of a pretrained model are trained."""


class ValidationSpec(Spec):
    """Validation while training, on the export's validation examples.

    The validation loss is the mean over all response tokens of the validation examples, without
    dropout. It is computed before the first step, every `every_steps` steps and after the last
    step. It needs `export.validation_fraction` above 0.
    """

    every_steps: int = Field(ge=1)
    """Optimizer updates between validations."""
    max_examples: int | None = Field(default=1000, ge=1)
    """Maximum number of validation examples that are used, the same ones each time; null uses
    all."""
    keep: Literal["best", "last"] = "best"
    """Weights that the stage exports: those with the lowest validation loss after any validated
    step, or those after the last step."""
    patience: int | None = Field(default=None, ge=1)
    """Number of validations in a row without a new lowest loss after which training stops; null
    trains all steps."""


class TrainSpec(Spec):
    """Supervised fine-tuning (SFT) with the loss on the response tokens only."""

    model: ModelSpec = RandomModelSpec()
    """Model that the run starts from: random weights, a stored model, or another run's."""
    tokenizer: TokenizerSpec = TokenizerSpec()
    """Tokenizer of the model."""
    method: MethodSpec = FullMethod()
    """What is trained: all weights, or adapters beside frozen weights."""
    optimizer: OptimizerSpec = AdamWSpec()
    """Optimizer and learning rate schedule."""
    steps: int | None = Field(default=None, ge=1)
    """Number of optimizer updates; give either `steps` or `epochs`."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training examples, rounded up to whole optimizer updates; the last update
    may read examples of the next pass. Give either `steps` or `epochs`."""
    continue_from: str | None = Field(default=None, min_length=1)
    """Id of a finished run that this run continues, with its weights, optimizer state and place in
    the data; null starts from `model`. `steps` or `epochs` count from the start of that run, so a
    run of 50 steps is continued to 100 by `steps: 100`. All other options of training, the seed and
    the dataset must be the same, except for `validation`. The learning rate follows the schedule of
    the new number of steps; with a `constant` schedule and `warmup_steps`, the result equals that
    of one longer run."""
    batch_size: int = Field(ge=1)
    """Rows per optimizer update, over all devices together. A row is one example, or several with
    `packing`."""
    accumulation_steps: int = Field(default=1, ge=1)
    """Number of parts that a batch is computed in, one after the other, before the optimizer
    update; must divide `batch_size`. A higher value needs less memory. The result is that of the
    whole batch: every response token has the same weight."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the computation. With bfloat16, the forward and backward passes use copies
    of the weights in bfloat16; trained weights, gradients and optimizer state stay float32. Frozen
    weights beside adapters are kept in this format."""
    mesh: MeshSpec = MeshSpec()
    """Mesh of the devices, which share the model and the batch; without effect on one device."""
    remat: Literal["none", "block", "decoder"] = "none"
    """Activations that the backward pass computes again instead of keeping them: `none`, those
    inside attention and feed-forward (`block`), or those inside a whole layer (`decoder`), which
    needs the least memory and about a fifth more time. The result is the same except for
    rounding."""
    validation: ValidationSpec | None = None
    """Validation while training; null computes no validation loss."""
    keep_checkpoints: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), max_length=100)
    """Steps before the last one whose weights become outputs of the train stage as well, so that
    `eval.checkpoints` can name them: adapters with LoRA, whole models otherwise. The checkpoint of
    each of them is also kept until the training ends. A step after an early stop is not kept."""
    max_length_tokens: int = Field(ge=8)
    """Maximum tokens of an example: prompt, response and control tokens together. A longer example
    fails the stage; `export.over_length` drops or shortens such examples before training."""
    packing: bool = False
    """Whether several examples share a row of `max_length_tokens`, so that little of a batch is
    padding. They do not see each other, and every response token has the same weight as without
    packing. A batch then holds more examples, because `batch_size` counts rows: lower it to keep
    their number. The examples of a row are chosen by their lengths, the same ones in every epoch.
    Validation examples are packed too."""
    thinking: Literal["steps", "plain"] = "plain"
    """Where the reasoning steps of a response go: into the thinking block of a model that has one,
    such as Qwen 3 (`steps`), or into its text, with thinking switched off (`plain`)."""

    def mesh_sizes(
        self, devices: int, slices: int = 1, architecture: Architecture | None = None
    ) -> MeshSizes:
        """Resolve `mesh` for a number of devices, and check that batch and model divide among them.

        Args:
            devices: devices of all slices.
            slices: TPU slices.
            architecture: family and shape of the model; None checks the batch alone.

        Raises:
            SpecError: the mesh does not fit the devices, or batch or model do not divide evenly.
        """
        sizes = self.mesh.sizes(devices, slices)
        sizes.check_rows(self.batch_size, self.accumulation_steps)
        if architecture is not None:
            sizes.check_architecture(architecture)
        return sizes

    @model_validator(mode="before")
    @classmethod
    def _with_learning_rate(cls, value: Any) -> Any:
        """Set the default learning rate of pretrained models; the field's is for random ones."""
        if not isinstance(value, dict) or _kind(value.get("model")) != "pretrained":
            return value
        optimizer = value.get("optimizer", {})
        if not isinstance(optimizer, dict) or "learning_rate" in optimizer:
            return value
        has_adapters = _kind(value.get("method")) in ("lora", "qlora")
        rate = ADAPTER_LEARNING_RATE if has_adapters else PRETRAINED_LEARNING_RATE
        return {**value, "optimizer": {**optimizer, "learning_rate": rate}}

    @model_validator(mode="after")
    def _fits(self) -> TrainSpec:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("expected one of the two keys `steps` and `epochs`")
        kept = self.keep_checkpoints
        if list(kept) != sorted(set(kept)) or (self.steps and kept and kept[-1] >= self.steps):
            raise ValueError(
                f"keep_checkpoints is {list(kept)}, expected rising steps below the last one, which"
                " is kept anyway; correct the list"
            )
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"accumulation_steps is {self.accumulation_steps}, expected a divisor of batch_size"
                f" ({self.batch_size})"
            )
        return self


def _kind(value: Any) -> Any:
    """Return the tag of a part of a spec, which may be a mapping or a model."""
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
