"""Build training examples from traces.

An example's metadata contains the trace's meta, but the meta cannot overwrite provenance keys.
"""

from __future__ import annotations

import uuid
from functools import lru_cache

import msgspec
import uuid_utils
from msgspec import UNSET, UnsetType

from tuneloop.datasets.schema import DatasetManifest, TraceRow
from tuneloop.errors import DataError
from tuneloop.traces.conversation import join_reasoning_steps
from tuneloop.traces.response_text import split_reasoning
from tuneloop.training.chat_drafts import ALONE
from tuneloop.training.conversation import Conversation, Loss
from tuneloop.training.prompt_templates import Draft, recipe_named
from tuneloop.training.schema import Refused, TrainingExample

EXAMPLE_NAMESPACE = uuid.UUID("7d9b6c9e-8f0c-5b3a-9a51-2f6f4a0f7c11")
"""UUID namespace of example ids; changing it changes every example id."""
_NAMESPACE = uuid_utils.UUID(str(EXAMPLE_NAMESPACE))  # uuid_utils is 3 times as fast as uuid


def example_id(build_id: str, trace_id: str, recipe: str) -> str:
    """Compute an example's id from the dataset build, the trace and the recipe."""
    return str(uuid_utils.uuid5(_NAMESPACE, f"{build_id}/{trace_id}/{recipe}"))


def _raw(value: str | int) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


class ExampleBuilder:
    """Applies one dataset's recipe and instruction to its traces.

    The metadata contains no timestamps, so that the same traces always give the same bytes.
    """

    def __init__(self, build_id: str, recipe: str, instruction: str | None) -> None:
        """Create a builder with the values of a dataset manifest.

        Raises:
            SpecError: the recipe is unknown.
        """
        self._build_id, self._recipe_name, self._instruction = build_id, recipe, instruction
        self._recipe = recipe_named(recipe)
        self._raw_build_id, self._raw_recipe = _raw(build_id), _raw(recipe)
        self._raw_version = lru_cache(maxsize=64)(_raw)

    def draft(self, row: TraceRow) -> Draft | Refused:
        """Draft the example of a trace, or return the reason to exclude the trace."""
        draft = self._recipe.draft(row, self._instruction)
        if isinstance(draft, Draft):
            context = draft.context
            is_blank = not draft.answer or draft.answer.isspace()
            if is_blank and not (context is not None and context.ends_with_calls):
                return Refused("empty_response", "its answer is blank")
            if not draft.prompt or draft.prompt.isspace():
                return Refused("invalid", "its prompt is blank")
        return draft

    def render_response(self, draft: Draft) -> str:
        """Render the response that the model should give."""
        if draft.context is not None and draft.context.ends_with_calls:
            return draft.context.calls()
        if draft.is_bare and not self._recipe.is_chat:
            return draft.answer
        return self._recipe.render_response(draft.steps, draft.answer)

    def conversation(self, draft: Draft, response: str, loss: Loss) -> Conversation | UnsetType:
        """Build the conversation of a draft; UNSET if prompt and response are all of it.

        Reasoning in a thinking block is more than a response.
        """
        if not self._recipe.is_chat:
            if draft.context is None:
                return UNSET
            return draft.context.conversation(draft.prompt, response, loss)
        is_plain = response == draft.answer and not split_reasoning(response)[0]
        if draft.context is None and is_plain:
            return UNSET
        reasoning = join_reasoning_steps(draft.steps)
        context = draft.context or ALONE
        return context.conversation(draft.prompt, draft.answer, loss, reasoning)

    def build(
        self,
        row: TraceRow,
        prompt: str,
        response: str,
        dropped_steps: int = 0,
        overlap: str | None = None,
        conversation: Conversation | UnsetType = UNSET,
    ) -> TrainingExample:
        """Build an example.

        Args:
            row: the trace.
            prompt: user text.
            response: response that the model should give.
            dropped_steps: number of the trace's steps that the response lacks. If it is not 0, it
                is recorded in the metadata.
            overlap: description of the overlap with the eval set, which is recorded in the
                metadata; None if there is none.
            conversation: the whole conversation; UNSET if prompt and response are all of it.
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
            conversation=conversation,
            id=str(uuid_utils.uuid5(_NAMESPACE, name)),
            metadata=metadata,
            prompt=prompt,
            response=response,
        )


def builder_of(manifest: DatasetManifest) -> ExampleBuilder:
    """Return the builder of a dataset; builders are cached.

    Raises:
        SpecError: the dataset's recipe is unknown.
    """
    return _builder(manifest.build_id, manifest.recipe, manifest.instruction)


@lru_cache(maxsize=16)
def _builder(build_id: str, recipe: str, instruction: str | None) -> ExampleBuilder:
    return ExampleBuilder(build_id, recipe, instruction)


def build_example(row: TraceRow, manifest: DatasetManifest) -> TrainingExample:
    """Apply the dataset's recipe and instruction to one trace.

    Raises:
        DataError: the recipe cannot make an example of this trace.
    """
    builder = builder_of(manifest)
    draft = builder.draft(row)
    if isinstance(draft, Refused):
        raise DataError(
            f"trace {row.id}: recipe {manifest.recipe} makes no example ({draft.reason}:"
            f" {draft.detail}), expected one example per trace; use format trace, or run the export"
            " stage, which lists excluded traces"
        )
    response = builder.render_response(draft)
    conversation = builder.conversation(draft, response, "final")
    return builder.build(row, draft.prompt, response, conversation=conversation)
