"""What makes a training step fit: the smallest change whose estimate fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tuneloop.errors import SpecError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.compilation import TargetDevices
from tuneloop.specs.training.method import FullMethod, LoraMethod, QloraMethod
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.sizing.memory import estimate_memory

_SHORTEST_TOKENS = 128

_KEEP_THE_RESULT = frozenset({"remat", "accumulation_steps"})
"""Keys that change the result by rounding only."""

Changes = dict[str, Any]
"""Keys of the train spec and their new values."""


@dataclass(frozen=True)
class _Step:
    """A step that does not fit."""

    train: TrainSpec
    architecture: Architecture
    target: TargetDevices
    larger: Sequence[TargetDevices]
    correction: float

    def fits(self, changes: Changes, target: TargetDevices | None = None) -> bool:
        """Return whether the changed step fits on its devices, or on others, by the estimate."""
        target = target or self.target
        changed = self.train.model_copy(update=changes)
        if changed.batch_size % changed.accumulation_steps:
            return False
        try:
            sizes = changed.mesh_sizes(target.devices, target.slices, self.architecture)
        except SpecError:
            return False
        estimate = estimate_memory(changed, self.architecture, sizes, target.platform)
        return estimate.peak_bytes * self.correction <= target.chip.limit_bytes


def find_lever(
    train: TrainSpec,
    architecture: Architecture,
    target: TargetDevices,
    larger: Sequence[TargetDevices] = (),
    *,
    correction: float = 1.0,
) -> str:
    """Return what to change, as the end of a sentence.

    Args:
        train: the spec that does not fit.
        architecture: family and shape of the model.
        target: the devices.
        larger: the shapes of the accelerator table that have more of these chips, smallest first.
        correction: factor of every estimate, such as compiled / estimated memory of this spec.
    """
    step = _Step(train, architecture, target, larger, correction)
    changes = next(filter(step.fits, _changes(train)), None)
    found = [] if changes is None else [f"with {_words(changes)}"]
    if changes is None or not _KEEP_THE_RESULT.issuperset(changes):
        found += _on_more_chips(step)
    if found:
        return f"by the estimate it fits {' or '.join(found)}"
    chips = ""
    if larger:
        chips = f", nor does a larger shape that the batch divides among (up to {larger[-1].name})"
    return (
        "by the estimate no change of remat, accumulation_steps, dtype, batch_size,"
        f" max_length_tokens and method makes it fit{chips}; choose a smaller model, or chips with"
        " more memory"
    )


def _on_more_chips(step: _Step) -> list[str]:
    for target in step.larger:
        words = f"with execution.cluster.train.accelerator: {target.name} ({target.chips} chips)"
        if step.fits({}, target):
            return [words]
        for changes in _frugal(step.train):
            if step.fits(changes, target):
                return [f"{words} and {_words(changes)}"]
    return []


def _changes(train: TrainSpec) -> Iterator[Changes]:
    """Yield changes for the same chips: first those that keep the result, then the others."""
    remats = {"none": ("block", "decoder"), "block": ("decoder",), "decoder": ()}[train.remat]
    parts = range(train.accumulation_steps + 1, train.batch_size + 1)
    yield from ({"remat": remat} for remat in remats)
    yield from ({"accumulation_steps": part} for part in parts)
    if remats:
        yield from ({"remat": "decoder", "accumulation_steps": part} for part in parts)
    if train.dtype == "float32":
        yield {"dtype": "bfloat16"}
    yield from _frugal(train)
    sizes = (train.batch_size >> n for n in range(1, train.batch_size.bit_length()))
    yield from ({"batch_size": size} for size in sizes)
    length = train.max_length_tokens // 2
    while length >= _SHORTEST_TOKENS:
        yield {"max_length_tokens": length}
        length //= 2
    methods = [LoraMethod(kind="lora")] if isinstance(train.method, FullMethod) else []
    if not isinstance(train.method, QloraMethod):
        methods.append(QloraMethod(kind="qlora"))
    for method in methods:
        yield {"method": method}
    for method in methods:
        yield from ({**changes, "method": method} for changes in _frugal(train))


def _frugal(train: TrainSpec) -> Iterator[Changes]:
    """Yield the computation of the same batch that needs least, with ever smaller parts."""
    base: Changes = {}
    if train.remat != "decoder":
        base["remat"] = "decoder"
    if train.dtype == "float32":
        base["dtype"] = "bfloat16"
    if base:
        yield base
    for part in range(train.accumulation_steps + 1, train.batch_size + 1):
        yield {**base, "accumulation_steps": part}


def _words(changes: Changes) -> str:
    def value(key: str) -> str:
        return f"{{kind: {changes[key].kind}}}" if key == "method" else str(changes[key])

    return " and ".join(f"train.{key}: {value(key)}" for key in changes)
