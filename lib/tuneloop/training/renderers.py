"""Chat text of Gemma 2 and 3. No other module knows how these models write turns.

Content cannot open or close a turn: `control_tokens.py` changes prompts, steps, answers and
instructions that spell a control token, and `parse_response` undoes it. `traces/response_text.py`
keeps steps and answers apart in a similar way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.traces.response_text import ParsedResponse, parse_plain_response, render_response
from tuneloop.training.control_tokens import ControlTokens

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
"""Control tokens of the Gemma 2, 3 and 4 tokenizers; content must not spell them."""

END_OF_TURN = "<end_of_turn>"

_CONTROL = ControlTokens(CONTROL_TOKENS)


def neutralise_control_tokens(content: str) -> str:
    """Insert a WORD JOINER after the `<` of every control token in the content."""
    return _CONTROL.neutralise(content)


def restore_control_tokens(content: str) -> str:
    """Undo `neutralise_control_tokens`, for text that goes back to people."""
    return _CONTROL.restore(content)


def render_raw_gemma_turn(role: str, content: str) -> str:
    """Render one closed turn of content that spells no control token."""
    return f"<start_of_turn>{role}\n{content}{END_OF_TURN}"


def render_gemma_turn(role: str, content: str) -> str:
    """Render one closed turn, without a line feed after it."""
    return render_raw_gemma_turn(role, neutralise_control_tokens(content))


def render_gemma_user_turn(content: str) -> str:
    """Render a closed user turn."""
    return render_gemma_turn("user", content)


def render_gemma_model_turn(content: str) -> str:
    """Render a closed model turn."""
    return render_gemma_turn("model", content)


def apply_system_instruction(prompt: str, system_instruction: str | None) -> str:
    """Prepend a system instruction to the prompt, because Gemma 2 and 3 have no system role."""
    return f"{system_instruction}\n\n{prompt}" if system_instruction else prompt


def render_generation_prompt(prompt: str, system_instruction: str | None = None) -> str:
    """Render the text before the model's first token, without `<bos>`.

    It is a byte prefix of `render_training_text` for the same prompt and instruction.
    """
    user = render_gemma_user_turn(apply_system_instruction(prompt, system_instruction))
    return f"{user}\n<start_of_turn>model\n"


def render_closed_response(response: str) -> str:
    """Render the model's turn with its closing mark: the text that the loss covers."""
    return neutralise_control_tokens(response) + END_OF_TURN


def render_training_text(prompt: str, response: str, system_instruction: str | None = None) -> str:
    """Render a whole training example, without `<bos>`."""
    return render_generation_prompt(prompt, system_instruction) + render_closed_response(response)


def render_tunix_sft_prompt(trace: Mapping[str, Any], system_instruction: str | None = None) -> str:
    """Render a trace as one user and one model turn: the `tunix_sft` export format.

    Args:
        trace: `prompt`, `trace_steps` (contents in order) and `final_answer`; a missing key
            counts as empty.
        system_instruction: text put before the prompt in the user turn; None for no text.

    Returns:
        The two turns, separated by a line feed.
    """
    prompt = apply_system_instruction(trace.get("prompt", ""), system_instruction)
    response = render_response(trace.get("trace_steps", []), trace.get("final_answer", ""))
    return f"{render_gemma_user_turn(prompt)}\n{render_gemma_model_turn(response)}"


def parse_response(text: str) -> ParsedResponse:
    """Parse generated text into steps and answer.

    A closing turn mark at the end is ignored, and neutralised control tokens are restored, so that
    text from `render_closed_response` parses too.
    """
    text = text.removesuffix(f"{END_OF_TURN}\n").removesuffix(END_OF_TURN)
    return parse_plain_response(restore_control_tokens(text))
