"""The parity gate of an adapter: its files and the base give the weights of the merged model.

Only Hugging Face's names and layouts are used here, as PEFT uses them. The merged model itself is
checked by `parity.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from safetensors import numpy as safetensors_numpy

from tuneloop.errors import DataError
from tuneloop.training.models.hf_layout import CheckpointFiles
from tuneloop.training.models.lora import peft
from tuneloop.training.models.publish.parity import Parity

ADAPTER = "adapter"
"""Reader of the `Parity` that stands for the adapter's files."""
_EPSILONS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Distance from 1 to the next larger number, by dtype."""
ROUNDINGS = 4
"""Roundings to the dtype of the weights that may lie between the two sides."""


def check_adapter(
    files: Mapping[str, bytes], base: CheckpointFiles, merged: CheckpointFiles, place: str
) -> Parity:
    """Add an adapter to the weights of its base and compare with the merged model.

    Args:
        files: contents of the adapter's folder by name.
        base: weights of the base.
        merged: weights of the merged model.
        place: URL of the adapter's folder, for the error message.

    Raises:
        DataError: a weight differs, or the adapter is for a weight that the base lacks.
    """
    config = json.loads(files[peft.CONFIG])
    tensors = safetensors_numpy.load(files[peft.WEIGHTS])
    scale = np.float32(config["lora_alpha"] / config["r"])
    dtype, worst, limit = "float32", 0.0, 0.0
    for name, module in sorted(peft.adapted_modules(tensors, base).items()):
        if name not in base.tensors or name not in merged.tensors:
            raise DataError(
                f"{place}: has an adapter for {name}, which the base or the merged model lacks;"
                " report this with the family and the shape of the model"
            )
        before, after = base.tensors[name].array(), merged.tensors[name].array()
        a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        expected = before.astype(np.float32) + scale * (b @ a)
        difference = float(np.abs(expected - after.astype(np.float32)).max())
        allowed = ROUNDINGS * _EPSILONS[after.dtype.name] * float(np.abs(expected).max())
        if difference > allowed:
            raise DataError(
                f"{place}: added to the base, the adapter gives weights {name} that differ by"
                f" {difference:.2g} from those of the merged model, expected at most"
                f" {allowed:.2g}; report this with the family and the shape of the model"
            )
        if difference >= worst:
            dtype, worst, limit = after.dtype.name, difference, allowed
    return Parity(ADAPTER, dtype, worst, limit, None)
