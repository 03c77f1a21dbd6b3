"""Traces to training examples, and the export formats that show them.

One rule: provenance wins. A trace's meta is carried along, but it cannot overwrite the keys that
say where an example comes from.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from tuneloop.datasets.schema import DatasetManifest, TraceRow, trace_record
from tuneloop.training.recipes import recipe_named
from tuneloop.training.renderers import render_tunix_sft_prompt
from tuneloop.training.schema import TrainingExample

EXAMPLE_NAMESPACE = uuid.UUID("7d9b6c9e-8f0c-5b3a-9a51-2f6f4a0f7c11")
"""Namespace of example ids; changing it renames every example."""


def example_id(build_id: str, trace_id: str, recipe: str) -> str:
    """Name an example by what it is made of."""
    name = f"{build_id}/{trace_id}/{recipe}".encode()
    # uuid.uuid5 spends more time on its object than on the hash: 4 us against 1 us.
    digest = hashlib.sha1(EXAMPLE_NAMESPACE.bytes + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(text))


_raw_constant = lru_cache(maxsize=64)(_raw)
"""For what is the same in most rows of a dataset."""


def build_example(row: TraceRow, manifest: DatasetManifest) -> TrainingExample:
    """Apply the dataset's recipe and instruction to one trace.

    The metadata holds no clock, so that the same traces give the same bytes wherever and whenever
    they were stored.
    """
    recipe = recipe_named(manifest.recipe)
    return TrainingExample(
        id=example_id(manifest.build_id, row.id, manifest.recipe),
        prompt=recipe.render_prompt(row.prompt, manifest.instruction),
        response=recipe.render_response(row.step_contents, row.final_answer),
        metadata={
            **(row.meta or {}),
            "source_trace_id": _raw(row.id),
            "trace_version": _raw_constant(row.trace_version),
            "dataset_build_id": _raw_constant(manifest.build_id),
            "recipe": _raw_constant(manifest.recipe),
        },
    )


def training_example_record(row: TraceRow, manifest: DatasetManifest) -> dict[str, Any]:
    """Render a trace in the `training_example` format of the store's export."""
    example = build_example(row, manifest)
    return {
        "id": example.id,
        "metadata": {**example.metadata, "created_at": row.created_at},
        "prompt": example.prompt,
        "response": example.response,
    }


def tunix_sft_record(row: TraceRow, manifest: DatasetManifest) -> dict[str, Any]:
    """Render a trace in the `tunix_sft` format: turns as text."""
    trace = {
        "prompt": row.prompt,
        "trace_steps": row.step_contents,
        "final_answer": row.final_answer,
    }
    return {
        "id": row.id,
        "prompts": render_tunix_sft_prompt(trace),
        "final_answer": row.final_answer,
        "metadata": {
            **(row.meta or {}),
            "created_at": row.created_at,
            "trace_version": row.trace_version,
            "format": "tunix_sft",
        },
    }


EXPORT_FORMATS: Mapping[str, Callable[[TraceRow, DatasetManifest], dict[str, Any]]] = {
    "trace": trace_record,
    "tunix_sft": tunix_sft_record,
    "training_example": training_example_record,
}
"""Formats of `GET /api/datasets/{key}/export.jsonl`."""
