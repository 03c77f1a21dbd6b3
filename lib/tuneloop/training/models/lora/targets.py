"""Which modules of a model get an adapter, from the Hugging Face names that a spec lists."""

from __future__ import annotations

from tuneloop.errors import SpecError
from tuneloop.specs.architecture import Architecture
from tuneloop.specs.method import LoraMethod

PROJECTIONS: dict[str, tuple[str, ...]] = {
    "q_einsum": ("q_proj",),
    "kv_einsum": ("k_proj", "v_proj"),
    "qkv_einsum": ("q_proj", "k_proj", "v_proj"),
    "attn_vec_einsum": ("o_proj",),
    **{
        name: (name,)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    },
}
"""Name of a Tunix module -> the Hugging Face projections that it computes, in their order."""


def adapted_modules(
    architecture: Architecture, method: LoraMethod, family_modules: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the names of the modules that get an adapter in each block.

    Args:
        architecture: decides which of the family's modules the blocks have.
        method: the targets.
        family_modules: the family's `lora_targets`.

    Returns:
        Names of Tunix modules, such as `q_einsum`, in the order of `family_modules`.

    Raises:
        SpecError: the targets contain a part of a module only.
    """
    modules = _modules_of_block(architecture, family_modules)
    if method.targets == "all-linear":
        return modules
    wanted: set[str] = set(method.targets)
    for module in modules:
        parts = set(PROJECTIONS[module])
        if wanted & parts and not parts <= wanted:
            raise SpecError(
                f"train.method.targets: has {_listed(wanted & parts)} without"
                f" {_listed(parts - wanted)}, expected both or neither, because"
                f" {architecture.family} computes {_listed(parts)} in one layer; add"
                f" {_listed(parts - wanted)}"
            )
    return tuple(module for module in modules if set(PROJECTIONS[module]) <= wanted)


def _modules_of_block(
    architecture: Architecture, family_modules: tuple[str, ...]
) -> tuple[str, ...]:
    """Leave out the attention modules of the other kind: Tunix's Gemma has q and kv, or qkv."""
    shared = architecture.num_heads == architecture.num_kv_heads
    absent = {"q_einsum", "kv_einsum"} if shared else {"qkv_einsum"}
    return tuple(
        name for name in family_modules if name not in absent or "qkv_einsum" not in family_modules
    )


def _listed(names: set[str]) -> str:
    order = {name: at for at, name in enumerate(PROJECTIONS)}
    return " and ".join(sorted(names, key=order.__getitem__))
