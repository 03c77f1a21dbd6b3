"""Traces to training examples, and the export formats that show them.

One rule: provenance wins. A trace's meta is carried along, but it cannot overwrite the keys that
say where an example comes from.
"""

from __future__ import annotations

import uuid
from functools import lru_cache

import msgspec
import uuid_utils

from tuneloop.datasets.schema import DatasetManifest, TraceRow
from tuneloop.errors import DataError
from tuneloop.training.prompt_templates import Draft, recipe_named
from tuneloop.training.schema import Refused, TrainingExample

EXAMPLE_NAMESPACE = uuid.UUID("7d9b6c9e-8f0c-5b3a-9a51-2f6f4a0f7c11")
"""Namespace of example ids; changing it renames every example."""
_NAMESPACE = uuid_utils.UUID(str(EXAMPLE_NAMESPACE))  # three times as fast as uuid.uuid5


def example_id(build_id: str, trace_id: str, recipe: str) -> str:
    """Name an example by what it is made of."""
    return str(uuid_utils.uuid5(_NAMESPACE, f"{build_id}/{trace_id}/{recipe}"))


def _raw(value: str | int) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


class ExampleBuilder:
    """Applies one dataset's recipe and instruction to its traces.

    The metadata holds no clock, so that the same traces give the same bytes wherever and whenever
    they were stored.
    """

    def __init__(self, build_id: str, recipe: str, instruction: str | None) -> None:
        """Take what the manifest says; SpecError if there is no such recipe."""
        self._build_id, self._recipe_name, self._instruction = build_id, recipe, instruction
        self._recipe = recipe_named(recipe)
        self._raw_build_id, self._raw_recipe = _raw(build_id), _raw(recipe)
        self._raw_version = lru_cache(maxsize=64)(_raw)

    def draft(self, row: TraceRow) -> Draft | Refused:
        """What the example is going to say, or why the trace makes none."""
        draft = self._recipe.draft(row, self._instruction)
        if isinstance(draft, Draft):
            if not draft.answer or draft.answer.isspace():
                return Refused("empty_response", "its answer is blank")
            if not draft.prompt or draft.prompt.isspace():
                return Refused("invalid", "its prompt is blank")
        return draft

    def render_response(self, draft: Draft) -> str:
        """What the model should say."""
        return self._recipe.render_response(draft.steps, draft.answer)

    def build(
        self,
        row: TraceRow,
        prompt: str,
        response: str,
        dropped_steps: int = 0,
        overlap: str | None = None,
    ) -> TrainingExample:
        """Put an example together.

        Args:
            row: the trace.
            prompt: what the user says.
            response: what the model should say.
            dropped_steps: how many of the trace's steps are missing in it, which is marked.
            overlap: what of the eval set it holds, which is marked.
        """
        metadata = {
            **(row.meta or {}),
            "source_trace_id": _raw(row.id),
            "trace_version": self._raw_version(row.trace_version),
            "dataset_build_id": self._raw_build_id,
            "recipe": self._raw_recipe,
        }
        if dropped_steps:
            metadata["dropped_steps"] = _raw(dropped_steps)
        if overlap:
            metadata["contamination"] = _raw(overlap)
        name = f"{self._build_id}/{row.id}/{self._recipe_name}"
        return TrainingExample(
            id=str(uuid_utils.uuid5(_NAMESPACE, name)),
            metadata=metadata,
            prompt=prompt,
            response=response,
        )


def builder_of(manifest: DatasetManifest) -> ExampleBuilder:
    """The builder for a dataset; SpecError if its recipe does not exist."""
    return _builder(manifest.build_id, manifest.recipe, manifest.instruction)


@lru_cache(maxsize=16)
def _builder(build_id: str, recipe: str, instruction: str | None) -> ExampleBuilder:
    return ExampleBuilder(build_id, recipe, instruction)


def build_example(row: TraceRow, manifest: DatasetManifest) -> TrainingExample:
    """Apply the dataset's recipe and instruction to one trace.

    Raises:
        DataError: the recipe makes no example of it.
    """
    builder = builder_of(manifest)
    draft = builder.draft(row)
    if isinstance(draft, Refused):
        raise DataError(
            f"trace {row.id}: {manifest.recipe} makes no example of it ({draft.reason}:"
            f" {draft.detail}), expected one of every trace; use format trace, or run the export"
            " stage, which lists exclusions"
        )
    return builder.build(row, draft.prompt, builder.render_response(draft))
