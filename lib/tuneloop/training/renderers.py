r"""Chat text: the one place that knows how Gemma 2 and 3 write turns and how responses look.

One rule about content: it can never open or close a turn, nor a step or an answer. Wherever a
control token stands in a prompt, a step, an answer or an instruction, a WORD JOINER (U+2060,
invisible) is put behind its `<`, so that no tokenizer sees the control token; wherever a line of a
step or an answer would read as the next step or as the answer, one is put before it. Where there
are some already there is one more, so that `parse_response` gives back any content as it was.

Training text is `<bos>` + generation prompt + closed response; `<bos>` is added as an id by
tokens.py, never as text, so there is exactly one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tuneloop.traces.response_text import (
    WORD_JOINER,
    ParsedResponse,
    _guarded_steps,
    _reasoning_form,
    parse_plain_response,
    render_response,
)

CONTROL_TOKENS = (
    "<bos>",
    "<eos>",
    "<pad>",
    "<unk>",
    "<mask>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|think|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
)
"""What content must not spell: control tokens of the Gemma 2, 3 and 4 tokenizers."""

END_OF_TURN = "<end_of_turn>"

_TOKENS = "|".join(re.escape(token[1:]) for token in CONTROL_TOKENS)
_CONTROL = re.compile(f"<({WORD_JOINER}*(?:{_TOKENS}))")
_NEUTRALISED = re.compile(f"<{WORD_JOINER}({WORD_JOINER}*(?:{_TOKENS}))")


def neutralise_control_tokens(content: str) -> str:
    """Put a WORD JOINER behind the `<` of every control token in the content."""
    if "<" not in content:
        return content
    return _CONTROL.sub(rf"<{WORD_JOINER}\1", content)


def restore_control_tokens(content: str) -> str:
    """Undo `neutralise_control_tokens`, for text that goes back to people."""
    return _NEUTRALISED.sub(r"<\1", content)


def render_gemma_turn(role: str, content: str) -> str:
    """Render one closed turn, without a line feed after it."""
    return f"<start_of_turn>{role}\n{neutralise_control_tokens(content)}{END_OF_TURN}"


def render_gemma_user_turn(content: str) -> str:
    """Render a closed user turn."""
    return render_gemma_turn("user", content)


def render_gemma_model_turn(content: str) -> str:
    """Render a closed model turn."""
    return render_gemma_turn("model", content)


def apply_system_instruction(prompt: str, system_instruction: str | None) -> str:
    """Put a system instruction before the first user turn: Gemma 2 and 3 have no system role."""
    return f"{system_instruction}\n\n{prompt}" if system_instruction else prompt


def render_reasoning_steps(steps: Sequence[str]) -> str:
    r"""Render numbered steps, each on a line of its own; empty for no steps.

    Returns:
        For instance `Reasoning:\n1. Add 2 and 2\n`, with the line feed at its end.
    """
    return _reasoning_form(len(steps)) % tuple(_guarded_steps(steps))


def render_generation_prompt(prompt: str, system_instruction: str | None = None) -> str:
    """Render all that stands before the model's first token, `<bos>` apart.

    A byte prefix of `render_training_text` for the same prompt and instruction.
    """
    user = render_gemma_user_turn(apply_system_instruction(prompt, system_instruction))
    return f"{user}\n<start_of_turn>model\n"


def render_closed_response(response: str) -> str:
    """Render what the model has to say and then stop: all that the loss covers."""
    return neutralise_control_tokens(response) + END_OF_TURN


def render_training_text(prompt: str, response: str, system_instruction: str | None = None) -> str:
    """Render a whole example, `<bos>` apart: what the ids of a training row spell."""
    return render_generation_prompt(prompt, system_instruction) + render_closed_response(response)


def render_tunix_sft_prompt(trace: Mapping[str, Any], system_instruction: str | None = None) -> str:
    """Render a trace as one user and one model turn: the `tunix_sft` export format.

    Args:
        trace: `prompt`, `trace_steps` (contents in order) and `final_answer`; a missing key
            counts as empty.
        system_instruction: put before the prompt, in the user turn.

    Returns:
        The two turns with a line feed between and none behind.
    """
    prompt = apply_system_instruction(trace.get("prompt", ""), system_instruction)
    response = render_response(trace.get("trace_steps", []), trace.get("final_answer", ""))
    return render_turns(prompt, response)


def render_turns(prompt: str, response: str) -> str:
    """Render a user turn and a model turn, both closed, with a line feed between."""
    return f"{render_gemma_user_turn(prompt)}\n{render_gemma_model_turn(response)}"


def parse_response(text: str) -> ParsedResponse:
    """Read steps and answer out of what a model wrote: undoes `render_closed_response`, too."""
    text = text.removesuffix(f"{END_OF_TURN}\n").removesuffix(END_OF_TURN)
    return parse_plain_response(restore_control_tokens(text))
