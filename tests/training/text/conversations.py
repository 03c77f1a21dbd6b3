"""Random conversations with system texts, tools, reasoning and several turns.

Each comes in two forms: as an example holds it, and as messages for a reference of transformers, in
which spelled control tokens are made harmless by hand.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.training.text.texts import WORDS, plain_text
from tuneloop.training.conversation import Conversation, Loss, Message, ToolCall
from tuneloop.training.text.layout import Thinking

WORD_JOINER = "\u2060"


@dataclass(frozen=True)
class Rules:
    """What a family's template can write."""

    thinking: Thinking
    tools: bool = False
    parallel_calls: bool = True
    text_beside_calls: bool = True
    tokens: Sequence[str] = ()
    """Control tokens that contents spell now and then."""
    think_block: bool = False
    """Whether a model that does not think writes its reasoning in a block of `<think>`."""


@dataclass
class Pair:
    """A conversation, and the messages and tools of the reference."""

    conversation: Conversation
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[Any] | None = None


class Generator:
    """Draws conversations."""

    def __init__(self, rng: random.Random, rules: Rules) -> None:
        self._rng, self._rules = rng, rules

    def draw(self, loss: Loss) -> Pair:
        rng = self._rng
        system = self._text() if rng.random() < 0.5 else None
        tools = None
        if self._rules.tools and rng.random() < 0.6:
            tools = [self._tool(number) for number in range(rng.randrange(1, 4))]
        ours: list[Message] = []
        theirs: list[dict[str, Any]] = []
        if system is not None:
            theirs.append({"role": "system", "content": self._safe(system)})
        for _ in range(rng.choice((1, 1, 2, 3, 5))):
            text = self._text()
            ours.append(Message(role="user", content=text))
            theirs.append({"role": "user", "content": self._safe(text)})
            for _ in range(rng.choice((0, 1, 1, 2)) if tools else 0):
                self._add_calls(ours, theirs, tools or [])
            self._add_answer(ours, theirs)
        conversation = Conversation(
            loss=loss,
            messages=tuple(ours),
            system=msgspec.UNSET if system is None else system,
            tools=tuple(msgspec.Raw(json.dumps(each).encode()) for each in tools or ())
            or msgspec.UNSET,
        )
        safe = None if tools is None else [self._safe_json(each) for each in tools]
        return Pair(conversation, theirs, safe)

    def _add_answer(self, ours: list[Message], theirs: list[dict[str, Any]]) -> None:
        text, reasoning = self._text(), self._reasoning()
        ours.append(Message(role="assistant", content=text, reasoning=reasoning or msgspec.UNSET))
        theirs.append({"role": "assistant", **self._assistant(text, reasoning)})

    def _add_calls(
        self, ours: list[Message], theirs: list[dict[str, Any]], tools: list[Any]
    ) -> None:
        rng = self._rng
        beside = self._rules.text_beside_calls and rng.random() < 0.4
        text = self._text() if beside else ""
        plain = self._rules.thinking == "plain" and not self._rules.text_beside_calls
        reasoning = "" if plain else self._reasoning()
        count = rng.choice((1, 1, 2, 3)) if self._rules.parallel_calls else 1
        calls = [
            (
                f"id{rng.randrange(10**6)}n{number}",
                rng.choice(tools)["function"]["name"],
                {self._key(): self._value(2) for _ in range(rng.randrange(4))},
            )
            for number in range(count)
        ]
        ours.append(
            Message(
                role="assistant",
                content=text,
                reasoning=reasoning or msgspec.UNSET,
                tool_calls=tuple(
                    ToolCall(id=call, name=name, arguments=json.dumps(arguments))
                    for call, name, arguments in calls
                ),
            )
        )
        theirs.append(
            {
                "role": "assistant",
                **self._assistant(text, reasoning),
                "tool_calls": [
                    {
                        "type": "function",
                        "id": call,
                        "function": {"name": name, "arguments": self._safe_json(arguments)},
                    }
                    for call, name, arguments in calls
                ],
            }
        )
        for call, name, _ in calls:
            result = self._text() if rng.random() < 0.9 else json.dumps({"a": [1, self._text()]})
            ours.append(Message(role="tool", content=result, tool_call_id=call))
            theirs.append(
                {
                    "role": "tool",
                    "content": self._safe(result),
                    "tool_call_id": call,
                    "name": name,
                }
            )

    def _assistant(self, text: str, reasoning: str) -> dict[str, Any]:
        if self._rules.think_block and reasoning:
            block = f"<think>\n{self._safe(reasoning)}\n</think>\n\n"
            return {"content": block + self._safe(text)}
        if self._rules.thinking == "plain":
            content = "\n\n".join(each for each in (reasoning, text) if each)
            return {"content": self._safe(content)}
        found = {"content": self._safe(text)}
        return found | ({"reasoning_content": self._safe(reasoning)} if reasoning else {})

    def _reasoning(self) -> str:
        # Gemma 4's template opens the thinking block after every result, so all or none think.
        return self._text() if self._rng.random() < 0.6 or self._rules.thinking == "steps" else ""

    def _text(self) -> str:
        text = plain_text(self._rng, 8)
        if self._rules.tokens and self._rng.random() < 0.1:
            text = f"{text} {self._rng.choice(self._rules.tokens)} end"
        return text

    def _key(self) -> str:
        return self._rng.choice(("city", "unit_name", "Größe", "列", "b c"))

    def _value(self, depth: int) -> Any:
        rng = self._rng
        kind = rng.randrange(7 if depth else 5)
        if kind < 2:
            return self._text()
        if kind < 5:
            return (rng.randrange(-9, 99), rng.random() < 0.5, 2.5)[kind - 2]
        if kind == 5:
            return [self._value(depth - 1) for _ in range(rng.randrange(3))]
        return {self._key(): self._value(depth - 1) for _ in range(rng.randrange(3))}

    def _tool(self, number: int) -> dict[str, Any]:
        rng = self._rng
        properties: dict[str, Any] = {
            "city": {"type": "string", "description": self._text()},
            "count": {"type": "integer", "description": "How many"},
            "unit": {"type": "string", "enum": ["C", rng.choice(WORDS)]},
            "list": {"type": "array", "items": {"type": "string"}, "description": self._text()},
            "where": {
                "type": "object",
                "description": "Place",
                "properties": {"x": {"type": "number", "description": "X"}},
                "required": ["x"],
            },
        }
        chosen = rng.sample(sorted(properties), rng.randrange(1, len(properties)))
        return {
            "type": "function",
            "function": {
                "name": f"{rng.choice(('get_weather', 'search', 'run-it'))}_{number}",
                "description": self._text(),
                "parameters": {
                    "type": "object",
                    "properties": {name: properties[name] for name in chosen},
                    "required": chosen[:1],
                },
            },
        }

    def _safe(self, text: str) -> str:
        for token in self._rules.tokens:
            text = text.replace(f" {token} end", f" {token[0]}{WORD_JOINER}{token[1:]} end")
        return text

    def _safe_json(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._safe(value)
        if isinstance(value, dict):
            return {key: self._safe_json(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._safe_json(each) for each in value]
        return value
