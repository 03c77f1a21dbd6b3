r"""Import format `gsm8k`: questions of grade school math with `####` before the answer.

`{"question": "What is 6 * 7?", "answer": "6 * 7 = <<6*7=42>>42\\n#### 42"}`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.traces.importers.chat import Chat
from tuneloop.traces.schema import build_trace

_MARK = "####"


def trace_of_gsm8k(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Convert a record with `question` and `answer`.

    Args:
        value: the record. Each line of the answer before the last `####` is a step, and the text
            after it is the final answer. Annotations of the calculator stay.
        place: its location for error messages, as `FILE:line`.

    Raises:
        DataError: a key is missing, or the answer has no `####`.
    """
    chat = Chat(value, place)
    question, solution = chat.take_text("question"), chat.take_text("answer")
    reasoning, mark, answer = solution.rpartition(_MARK)
    if not mark or not answer.strip():
        raise DataError(
            f"{place}: answer has no text after {_MARK}, expected the final answer there; fix the"
            " line, or use another format"
        )
    steps = [line for line in reasoning.split("\n") if line.strip()]
    return build_trace(question, steps, answer.strip(), meta=chat.rest or None)
