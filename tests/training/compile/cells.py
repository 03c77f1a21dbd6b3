"""Training steps that the tests compile: small models of every family on every kind of shape."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import pytest

from tests.builders import REPOSITORY
from tuneloop.k8s.accelerators.shapes import load_accelerators
from tuneloop.specs.cluster import AcceleratorRequest
from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.specs.training.compilation import CompiledStep, CompileRequest, TargetDevices

_TABLE = REPOSITORY / "manifests" / "k8s" / "accelerators.yaml"
_ACCELERATORS = load_accelerators(_TABLE.read_bytes(), str(_TABLE))
_GEMMA = {"local_rope": Rope(theta=10_000), "sliding_window_tokens": 32}
_GEMMA_LAYER_TYPES = ("sliding", "full")
_EXTRA: dict[str, dict[str, Any]] = {
    "gemma2": {**_GEMMA, "attention_softcap": 50.0, "final_softcap": 30.0},
    "gemma3": _GEMMA,
    "llama3": {"tied_embeddings": False},
    "qwen2": {},
    "qwen3": {},
}

TINY = {
    "num_layers": 2,
    "embed_dim": 128,
    "hidden_dim": 256,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
}
LIBTPU_ENV = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
"""Environment of a process that compiles, as `runs/planning/compilation.py` sets it."""
TRAIN: dict[str, Any] = {"steps": 10, "max_length_tokens": 64, "dtype": "bfloat16"}


@dataclass(frozen=True)
class Cell:
    """One step: a model, its training, and the devices."""

    family: str
    method: str
    accelerator: str
    slices: int = 1
    train: dict[str, Any] = field(default_factory=dict)
    """Keys that differ from TRAIN."""
    shape: dict[str, Any] = field(default_factory=dict)
    """Keys that differ from TINY."""

    def __str__(self) -> str:
        slices = f"-{self.slices}-slices" if self.slices > 1 else ""
        options = "".join(f"-{key}-{value}" for key, value in self.train.items())
        return f"{self.family}-{self.method}-{self.accelerator}{slices}{options}"

    @property
    def request(self) -> CompileRequest:
        target = target_named(self.accelerator, self.slices)
        method: dict[str, Any] = {"kind": self.method}
        if self.method != "full":
            method["rank"] = 4
        train = {"batch_size": max(2, target.devices), **TRAIN, "method": method, **self.train}
        return CompileRequest.model_validate(
            {
                "train": train,
                "architecture": architecture(self.family, **self.shape),
                "steps": 10,
                "target": target,
            }
        )


def architecture(family: str, **shape: Any) -> Architecture:
    """Build a small architecture of a family."""
    values = {**TINY, **_EXTRA[family], **shape}
    if _EXTRA[family].get("local_rope"):
        values.setdefault("layer_types", _GEMMA_LAYER_TYPES[: values["num_layers"]])
    return Architecture(family=family, rope=Rope(theta=1_000_000), **values)


def target_named(accelerator: str, slices: int = 1) -> TargetDevices:
    """Return the devices of a shape of the table that ships with the code."""
    request = AcceleratorRequest(accelerator=accelerator, slices=slices)
    found = _ACCELERATORS.devices(request)
    assert found is not None
    return found


def larger_than(accelerator: str) -> list[TargetDevices]:
    """Return the shapes of the same table that have more of these chips."""
    return _ACCELERATORS.larger_devices(AcceleratorRequest(accelerator=accelerator))


def need_libtpu() -> None:
    """Skip a test, or fail it under CI, if the extra `compile` is not installed."""
    if find_spec("libtpu") is None:
        missing = "libtpu is not installed: run `make setup-dev`"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


def compile_all(requests: Sequence[CompileRequest]) -> list[CompiledStep]:
    """Compile steps one after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-m", "tuneloop.training.compile"],
        input="".join(f"{request.model_dump_json()}\n" for request in requests),
        capture_output=True,
        text=True,
        env={**os.environ, **LIBTPU_ENV},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [CompiledStep.model_validate_json(line) for line in done.stdout.splitlines()]
