"""Whether the selected traces suit the requested recipe; previews of builds show the answer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from msgspec import UNSET

from tuneloop.datasets.schema import DEFAULT_RECIPE, TraceRow
from tuneloop.traces.schema import MESSAGE, TOOL_CALL, TOOL_RESULT

CHAT_RECIPE = "chat_v1"
LOOKED_AT = 1000
"""Maximum number of traces that a hint is based on."""
_CHAT_STEPS = frozenset({MESSAGE, TOOL_CALL, TOOL_RESULT})
_OF_MODELS = (b'"evaluation"', b'"sample"')
"""Values of `meta.source` of traces whose form follows from a recipe."""


def recipe_hint(recipe: str, rows: Iterable[TraceRow]) -> str | None:
    """Return a sentence that names a better recipe, if most of the first traces are chat.

    Args:
        recipe: the recipe that the build asks for.
        rows: the selected traces; at most `LOOKED_AT` are read.
    """
    if recipe != DEFAULT_RECIPE:
        return None
    looked_at = [is_chat(row) for row in islice(rows, LOOKED_AT)]
    found = sum(looked_at)
    if 2 * found <= len(looked_at):
        return None
    return (
        f"{found:,} of the first {len(looked_at):,} traces are chat, but the recipe {recipe}"
        " numbers reasoning as steps and marks answers with `Answer:`; the recipe"
        f" {CHAT_RECIPE} writes reasoning in the model's thinking block and answers as they are"
    )


def is_chat(row: TraceRow) -> bool:
    """Return whether a trace is a chat rather than a list of steps.

    It is one if it has a system message, earlier turns or tools, text or calls of tools as steps,
    an answer without steps, or reasoning in several paragraphs.
    """
    if bytes((row.meta or {}).get("source", b"")) in _OF_MODELS:
        return False
    if any(each is not UNSET for each in (row.system, row.messages, row.tools)) or not row.steps:
        return True
    return any(step.type in _CHAT_STEPS or "\n\n" in step.content for step in row.steps)
