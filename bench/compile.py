"""Memory of a training step that libtpu compiles for TPUs; compared with the closed form of `plan`.

Needs the extra `compile`. Each step takes minutes, because the layers are compiled one by one. Name
the steps as arguments to compile others than the first: `python bench/compile.py gemma3-27b`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

from figure import print_figure, sized

from tuneloop import resources
from tuneloop.k8s.accelerators.shapes import load_accelerators
from tuneloop.specs.cluster import AcceleratorRequest
from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.specs.training.compilation import CompileRequest
from tuneloop.training.compile.compiled import compile_step
from tuneloop.training.sizing.memory import estimate_memory

GIB = 2**30
SHAPES: dict[str, dict[str, int]] = {
    "gemma3-1b": {
        "num_layers": sized(26, 2),
        "embed_dim": sized(1152, 128),
        "hidden_dim": sized(6912, 256),
        "num_heads": 4,
        "num_kv_heads": 1,
        "head_dim": sized(256, 32),
        "vocab_size": sized(262_144, 512),
    },
    "gemma3-27b": {
        "num_layers": 62,
        "embed_dim": 5376,
        "hidden_dim": 21_504,
        "num_heads": 32,
        "num_kv_heads": 16,
        "head_dim": 128,
        "vocab_size": 262_144,
    },
}
STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3-1b": ("v5e-2x4-8t", {"batch_size": 16, "max_length_tokens": sized(1024, 64)}),
    "gemma3-27b": (
        "v5p-4x4x4",
        {"batch_size": 64, "max_length_tokens": 2048, "mesh": {"tp": 4}},
    ),
}
"""Name -> accelerator, and the options of `train` besides bfloat16 and remat by layers."""


def request_of(name: str) -> CompileRequest:
    """Build the step of a name."""
    accelerator, options = STEPS[name]
    path = resources.data_path("manifests/k8s/accelerators.yaml")
    table = load_accelerators(path.read_bytes(), str(path))
    target = table.devices(AcceleratorRequest(accelerator=accelerator))
    assert target is not None
    pattern = ("sliding",) * 5 + ("full",)
    layers = SHAPES[name]["num_layers"]
    architecture = Architecture.model_validate(
        {
            "family": "gemma3",
            "rope": Rope(theta=1_000_000),
            "local_rope": Rope(theta=10_000),
            "sliding_window_tokens": 512,
            "layer_types": tuple(pattern[layer % 6] for layer in range(layers)),
            **SHAPES[name],
        }
    )
    train = {"steps": 1, "dtype": "bfloat16", "remat": "decoder", **options}
    return CompileRequest.model_validate(
        {"train": train, "architecture": architecture, "steps": 1, "target": target}
    )


def main() -> None:
    """Compile the named steps; the last line compares the last one with the closed form."""
    names = [name for name in sys.argv[1:] if name in STEPS] or ["gemma3-1b"]
    for name in names:
        request = request_of(name)
        found = compile_step(request)
        sizes = request.train.mesh_sizes(request.target.devices, request.target.slices)
        estimate = estimate_memory(
            request.train, request.architecture, sizes, request.target.platform
        )
        print(name, json.dumps(found.model_dump()))
        pair = (found.required_bytes / GIB, estimate.peak_bytes / GIB)
        print_figure(f"compile_{name}", "GiB", [pair])


if __name__ == "__main__":
    main()
