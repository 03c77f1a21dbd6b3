"""Conversations of published models have the ids and the mask of the models' own templates.

The reference is transformers, which is installed for tests alone. It renders what generation
starts from for each message of the assistant, and the conversation up to the message.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.published_tokenizers import gemma4_tokenizer, published_template, published_tokenizer
from tests.training.text.asking import is_asked_as_trained
from tests.training.text.conversations import Generator, Pair, Rules
from tuneloop.artifacts.evaluation.eval_samples import Item
from tuneloop.datasets.schema import row_of_payload
from tuneloop.errors import DataError
from tuneloop.stages.answering.parsing import calls_tool
from tuneloop.traces.conversation import trace_of_conversation
from tuneloop.training.conversation import Loss
from tuneloop.training.export.examples import ExampleBuilder
from tuneloop.training.prompt_templates import Draft
from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.chat_format import ChatFormat, load_chat_format
from tuneloop.training.text.rows import encode_rows
from tuneloop.training.text.turns.encoder import EncodedRow

pytestmark = pytest.mark.slow  # fetches and loads tokenizers of up to 33 MB

CONVERSATIONS = 480
"""Conversations of all cases together. 10,000 pass too, and take four minutes of CPU time."""
GEMMA = ("<start_of_turn>", "<end_of_turn>", "<bos>", "<unused7>")
GEMMA4 = ("<|turn>", "<turn|>", "<|tool_call>", "<tool_response|>", '<|"|>', "<|channel>")
QWEN = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_response>")
LLAMA = ("<|start_header_id|>", "<|eot_id|>", "<|end_of_text|>", "<|reserved_special_token_7|>")
CASES: dict[str, tuple[str, str | None, str, Rules]] = {
    "gemma3": ("gemma3", None, "<end_of_turn>", Rules("plain", tokens=GEMMA)),
    "gemma4": (
        "gemma4",
        "gemma4_v5",
        "<turn|>",
        Rules("plain", tools=True, text_beside_calls=False, tokens=GEMMA4),
    ),
    "gemma4 that thinks": (
        "gemma4",
        "gemma4_v5",
        "<turn|>",
        Rules("steps", tools=True, text_beside_calls=False, tokens=GEMMA4),
    ),
    "qwen3": ("qwen3", None, "<|im_end|>", Rules("plain", tools=True, tokens=QWEN)),
    "qwen3 that thinks": ("qwen3", None, "<|im_end|>", Rules("steps", tools=True, tokens=QWEN)),
    "llama3": ("llama3", None, "<|eot_id|>", Rules("plain", tokens=LLAMA)),
    "gemma3 with a block": (
        "gemma3",
        None,
        "<end_of_turn>",
        Rules("plain", tokens=GEMMA, think_block=True),
    ),
    "llama3 with a block": (
        "llama3",
        None,
        "<|eot_id|>",
        Rules("plain", tokens=LLAMA, think_block=True),
    ),
    "llama3_1": (
        "llama3_1",
        "llama3_1",
        "<|eot_id|>",
        Rules("plain", True, parallel_calls=False, text_beside_calls=False, tokens=LLAMA),
    ),
    "llama3_2": (
        "llama3_1",
        "llama3_2",
        "<|eot_id|>",
        Rules("plain", True, parallel_calls=False, text_beside_calls=False, tokens=LLAMA),
    ),
}
"""Name -> tokenizer, template (None: the tokenizer's own), closing mark, rules."""


def folder_of(name: str) -> Path:
    return gemma4_tokenizer() if name == "gemma4" else published_tokenizer(name)


@cache
def chat_of(case: str) -> ChatFormat:
    name, template, _, rules = CASES[case]
    files = {path.name: path.read_bytes() for path in folder_of(name).iterdir()}
    if template is not None:
        files["chat_template.jinja"] = published_template(template).encode()
    return load_chat_format(files, place=case, thinking=rules.thinking)


@cache
def reference_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder_of(name))


class Reference:
    """What the template of a case gives by transformers."""

    def __init__(self, case: str, pair: Pair) -> None:
        name, template, self._closing, rules = CASES[case]
        self._tokenizer, self._pair = reference_tokenizer(name), pair
        self._options = {
            "tools": pair.tools,
            "enable_thinking": rules.thinking == "steps",
            "chat_template": None if template is None else published_template(template),
            "date_string": "26 Jul 2024",
        }

    def _text(self, stop: int, *, generation: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            self._pair.messages[:stop],
            tokenize=False,
            add_generation_prompt=generation,
            **self._options,
        )
        return text

    def message(self, number: int) -> tuple[list[int], list[int]]:
        """Return the ids that generation starts from, and those of the message with its end."""
        before = self._text(number, generation=True)
        whole = self._text(number + 1, generation=False)
        assert whole.startswith(before)
        rest, closing, _ = whole[len(before) :].partition(self._closing)
        if not closing:  # Gemma 4 ends a message with calls so
            rest, closing, _ = rest.partition("<|tool_response>")
        assert closing
        start = self._ids(before)
        ids = self._ids(before + rest + closing)
        assert ids[: len(start)] == start
        return start, ids[len(start) :]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def check(case: str, pair: Pair, rows: Sequence[EncodedRow]) -> None:
    """Check that each message is trained on once, after what generation starts from."""
    reference = Reference(case, pair)
    numbers = [n for n, each in enumerate(pair.messages) if each["role"] == "assistant"]
    if pair.conversation.loss == "final":
        numbers = numbers[-1:]
    expected = [reference.message(number) for number in numbers]
    found = [(row.ids[:start], row.ids[start:stop]) for row in rows for start, stop in row.trained]
    assert found == expected
    for row in rows:
        assert row.trained[-1][1] == len(row.ids)
        assert row.trained == tuple(sorted(row.trained))


def chat_example(pair: Pair) -> TrainingExample:
    """Return the example that the recipe chat_v1 makes of the trace of a conversation."""
    talk = json.loads(msgspec.json.encode(pair.conversation))
    trace = trace_of_conversation(
        talk["messages"], system=talk.get("system"), tools=talk.get("tools")
    )
    moment = "2026-11-29T00:00:00.000000Z"
    row = row_of_payload("1", moment, json.dumps(trace))
    builder = ExampleBuilder("b", "chat_v1", None)
    draft = builder.draft(row)
    assert isinstance(draft, Draft)
    response = builder.render_response(draft)
    conversation = builder.conversation(draft, response, pair.conversation.loss)
    return builder.build(row, draft.prompt, response, conversation=conversation)


@pytest.mark.parametrize("case", CASES)
def test_ids_and_mask_are_those_of_the_model_s_own_template(case: str) -> None:
    rng = random.Random(f"conversations of {case}")
    generator, chat, asked = Generator(rng, CASES[case][3]), chat_of(case), 0
    for number in range(CONVERSATIONS // len(CASES)):
        loss: Loss = "all_assistant" if number % 2 else "final"
        pair = generator.draw(loss)
        rows: Sequence[EncodedRow] = chat.turns.encode(pair.conversation, None)
        rules = CASES[case][3]
        if rules.thinking == "steps":
            assert encode_rows(chat_example(pair), chat, None) == rows
        elif rules.think_block:
            rows = encode_rows(chat_example(pair), chat, None)
        check(case, pair, rows)
        if number % 3 == 0:
            recipes = ["trace_sft_v1", "answer_only_v1", "trace_or_chat_v1"]
            if rules.think_block or rules.thinking == "steps":
                recipes.append("chat_v1")
            asked += is_asked_as_trained(
                pair.conversation,
                chat,
                recipe=rng.choice(recipes),
                instruction=rng.choice((None, "Think.")),
                system_instruction=rng.choice((None, "Be brief.")),
            )
        if loss == "final" or case.startswith(("gemma3", "llama")):
            assert len(rows) == 1
    assert asked > 5


@pytest.mark.parametrize(
    ("case", "mark"),
    [
        ("gemma3", ""),
        ("gemma4", "<|tool_call>"),
        ("gemma4 that thinks", "<|tool_call>"),
        ("qwen3", "<tool_call>"),
        ("qwen3 that thinks", "<tool_call>"),
        ("llama3", ""),
        ("llama3_1", '{"name": "'),
    ],
)
def test_a_call_of_a_tool_is_known_by_the_mark_of_the_template(case: str, mark: str) -> None:
    chat = chat_of(case)
    assert chat.turns.call_mark == mark
    function = {"name": "look_up", "parameters": {"type": "object", "properties": {}}}
    tool = {"type": "function", "function": function}
    item = Item(set="", id="a", prompt="q", expected_answer="a", category="", tools=(tool,))
    answer = "I call nothing, and {} is no call."
    assert not calls_tool(answer, item, chat)
    assert calls_tool(f'{answer} {mark}look_up", ...', item, chat) == bool(mark)
    without = msgspec.structs.replace(item, tools=msgspec.UNSET)
    assert not calls_tool(f"{mark}look_up", without, chat)


@pytest.mark.parametrize("case", ["gemma3", "llama3", "gemma4 that thinks", "llama3_1"])
def test_what_a_family_cannot_write_is_refused(case: str) -> None:
    """With tools, text beside calls, several calls, and messages without reasoning."""
    tokens = CASES[case][3].tokens
    plain = case != "gemma4 that thinks"
    generator = Generator(random.Random(case), Rules("plain", tools=True, tokens=tokens))
    refused = 0
    for _ in range(40):
        pair = generator.draw("all_assistant")
        try:
            rows = chat_of(case).turns.encode(pair.conversation, None)
        except DataError as e:
            assert "\n" not in str(e)
            refused += 1
            continue
        if plain:
            check(case, pair, rows)
            assert pair.tools is None or case == "llama3_1"
    assert 5 < refused < 40
