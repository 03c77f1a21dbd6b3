"""How a model is trained: all of its weights, or adapters (LoRA, QLoRA) beside frozen weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from tuneloop.specs.base import Spec

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""A linear layer of a transformer block, by its Hugging Face name."""


def _kind_of_targets(value: object) -> str:
    return "name" if isinstance(value, str) else "list"


# The discriminator makes an error speak of the form that was meant.
Targets = Annotated[
    Annotated[Literal["all-linear"], Tag("name")]
    | Annotated[tuple[Projection, ...], Field(min_length=1), Tag("list")],
    Discriminator(_kind_of_targets),
]


class FullMethod(Spec):
    """Train all weights of the model."""

    kind: Literal["full"] = "full"


class LoraMethod(Spec):
    """Low-rank adaptation (LoRA): train two small matrices per layer, which add to its output.

    A layer with weights W computes `W x + alpha / rank * B A x`. The model's own weights stay
    unchanged. A and B are float32, whatever the dtype of the model.
    """

    kind: Literal["lora"]
    rank: int = Field(default=16, ge=1, le=1024)
    """Rank of A and B; a higher rank can learn more, and needs more memory and time."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale of the adapters, divided by `rank`; usually one or two times the rank."""
    targets: Targets = "all-linear"
    """Layers with an adapter: `all-linear` for every linear layer of the blocks, or a list of
    Hugging Face names. Gemma computes k_proj and v_proj in one layer, so give both or neither."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapters' inputs, 0 to 1, that is set to zero at random in each training step;
    0 turns dropout off."""


class QloraMethod(LoraMethod):
    """LoRA beside quantized weights, which need less memory while training.

    The adapters are trained beside the quantized weights and merged into the original ones. The
    merged model is what a run evaluates and hands on.
    """

    kind: Literal["qlora"]  # type: ignore[assignment]  # the tag of the union
    quantization: Literal["nf4", "int8"] = "nf4"
    """Format of the frozen weights in the layers with an adapter: `nf4` takes 4 bits per weight,
    `int8` 8 bits and is more exact."""


MethodSpec = Annotated[FullMethod | LoraMethod | QloraMethod, Field(discriminator="kind")]
"""How the model is trained."""
