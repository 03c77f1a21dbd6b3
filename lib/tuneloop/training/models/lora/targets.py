"""Which modules of a model get an adapter, from the Hugging Face names that a spec lists."""

from __future__ import annotations

from collections.abc import Iterable

from tuneloop.errors import SpecError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import LoraMethod
from tuneloop.training.models.naming import projections_of
from tuneloop.training.models.registry import lora_modules


def adapted_modules(architecture: Architecture, method: LoraMethod) -> tuple[str, ...]:
    """Return the names of the modules that get an adapter in each block.

    Args:
        architecture: family and shape of the model.
        method: the targets.

    Returns:
        Names of Tunix modules, such as `q_einsum`.

    Raises:
        SpecError: the targets contain a part of a module only.
    """
    modules = lora_modules(architecture)
    if method.targets == "all-linear":
        return modules
    wanted: set[str] = set(method.targets)
    chosen = []
    for module in modules:
        parts = set(_projections(architecture.family, module))
        if wanted & parts and not parts <= wanted:
            missing = _listed(parts - wanted)
            raise SpecError(
                f"train.method.targets: has {_listed(wanted & parts)} without {missing}, expected"
                f" both or neither, because this {architecture.family} model computes"
                f" {_listed(parts)} in one layer; add {missing}"
            )
        if parts <= wanted:
            chosen.append(module)
    return tuple(chosen)


def _projections(family: str, module: str) -> list[str]:
    """Return the Hugging Face names of a module's parts, such as `k_proj` and `v_proj`."""
    room = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "attn"
    names = projections_of(family, f"layers.0.{room}.{module}")
    return [name.rpartition(".")[2] for name in names]


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names, key=lambda name: "qkv".find(name[0])))
