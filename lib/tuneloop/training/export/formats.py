"""Formats in which datasets and examples are exported for people and other tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tuneloop.datasets.schema import DatasetManifest, TraceRow, trace_record
from tuneloop.training.export.examples import build_example
from tuneloop.training.renderers import render_tunix_sft_prompt
from tuneloop.training.schema import TrainingExample


def training_example_record(row: TraceRow, manifest: DatasetManifest) -> dict[str, Any]:
    """Render a trace in the `training_example` format of the store's export."""
    example = build_example(row, manifest)
    metadata: dict[str, Any] = example.metadata  # The example is new, so this may be changed.
    metadata["created_at"] = row.created_at
    return {
        "id": example.id,
        "metadata": metadata,
        "prompt": example.prompt,
        "response": example.response,
    }


def tunix_sft_record(row: TraceRow, manifest: DatasetManifest) -> dict[str, Any]:
    """Render a trace in the `tunix_sft` format, whose `prompts` field holds both turns as text."""
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
"""Formats of `GET /api/datasets/{key}/export.jsonl`, by name."""


def messages_record(example: TrainingExample) -> dict[str, Any]:
    """Convert an example to `messages`, which TRL, Axolotl and chat templates read."""
    return {
        "id": example.id,
        "messages": [
            {"role": "user", "content": example.prompt},
            {"role": "assistant", "content": example.response},
        ],
    }


def prompt_completion_record(example: TrainingExample) -> dict[str, Any]:
    """Convert an example to TRL's standard format with `prompt` and `completion`."""
    return {"completion": example.response, "id": example.id, "prompt": example.prompt}


VIEWS = {"messages": messages_record, "prompt_completion": prompt_completion_record}
"""Example formats for other training tools, by name."""
