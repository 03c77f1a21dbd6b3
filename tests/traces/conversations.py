"""Random conversations and traces: Unicode, control tokens, tools, reasoning, history, system.

They are drawn with a seed and not by Hypothesis, because a thousand of them must take a second.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tuneloop.traces.schema import build_trace

HARD = (
    *("", " ", "x", "naïve 😀", "שלום עולם", "a\r\nb", "\u2028", "<|im_end|>", "<think>"),
    *("</think>", "<think>a</think>b", "Reasoning:\n1. a\nAnswer: b", "Answer: 4", '{"a": 1}'),
    *("\ufeff", "<|eot_id|>", "#### 4", "  spaces  ", "\n\n", 'a,b\t"c"', "\u2060", "e\u0301"),
    *("[THINK]a[/THINK]b", "\U0010ffff", "a\n\nb", "null", "0", "-", "{{ x }}", "\x7f\x01"),
)
"""Texts that tools read in different ways."""
PLAIN = (
    *("x", "naïve 😀", "שלום עולם", "a\r\nb", "p\u2028q", "Answer: 4", '{"a": 1}', "x < y > z"),
    *("#### 4", 'a,b\t"c"', "e\u0301", "\U0010ffff", "a\n\nb", "null", "0", "-", "{{ x }}"),
)
"""Texts without marks of reasoning and without space around, which every format keeps."""
NAMES = ("add", "get_weather", "поиск", "a.b-c")


class Drawn:
    """Draws conversations and traces with a seed."""

    def __init__(self, seed: int) -> None:
        """Start a sequence."""
        self._random = Random(seed)

    def _maybe(self, value: Any, share: float = 0.5) -> Any:
        return value if self._random.random() < share else None

    def hard(self, *, filled: bool = False) -> str:
        """Draw any text that a trace can hold."""
        text = "".join(self._random.choices(HARD, k=self._random.randint(0, 2)))
        return text or ("?" if filled else "")

    def plain(self) -> str:
        """Draw a text that every format keeps."""
        return " ".join(self._random.choices(PLAIN, k=self._random.randint(1, 3)))

    def value(self) -> Any:
        """Draw a JSON value."""
        kinds: tuple[Any, ...] = (
            None,
            True,
            False,
            0,
            1,
            -7,
            1.0,
            1e16,
            0.1,
            self.hard(),
            [self.hard()],
            {},
            [],
        )
        return self._random.choice(kinds)

    def _object(self) -> dict[str, Any]:
        return {self.hard(): self.value() for _ in range(self._random.randint(0, 3))}

    def tools(self) -> list[dict[str, Any]]:
        """Draw definitions of tools."""
        return [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": self.plain(),
                    "parameters": {"type": "object", "properties": {"x": {"type": "string"}}},
                },
            }
            for name in self._random.sample(NAMES, self._random.randint(1, 2))
        ]

    def _assistant(self, content: str, *, reasons: bool) -> dict[str, Any]:
        message = {"role": "assistant", "content": content}
        return message | ({"reasoning": self.plain()} if reasons else {})

    def turn(self, *, tools: bool = True, reasons: bool = True) -> list[dict[str, Any]]:
        """Draw a question, calls of tools with their results, and the answer."""
        thinks = reasons and self._random.random() < 0.5
        turn: list[dict[str, Any]] = [{"role": "user", "content": self.plain()}]
        for at in range(self._random.randint(0, 2) if tools else 0):
            message = self._assistant(self._maybe(self.plain()) or "", reasons=thinks)
            message["tool_calls"] = [
                {
                    "id": f"c{at}{number}",
                    "name": self._random.choice(NAMES),
                    "arguments": json.dumps(self._object(), ensure_ascii=False),
                }
                for number in range(self._random.randint(1, 2))
            ]
            turn.append(message)
            turn += [
                {"role": "tool", "content": self.hard(), "tool_call_id": call["id"]}
                for call in message["tool_calls"]
            ]
        return [*turn, self._assistant(self.plain(), reasons=thinks)]

    def marked(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Say of some messages before the last question whether to train on them."""
        last = max(at for at, each in enumerate(messages) if each["role"] == "user")
        return [
            each | {"train": self._random.random() < 0.5}
            if each["role"] == "assistant" and at < last and self._random.random() < 0.3
            else each
            for at, each in enumerate(messages)
        ]

    def conversation(
        self, *, turns: int = 3, tools: bool = True, reasons: bool = True, system: bool = True
    ) -> dict[str, Any]:
        """Draw `{"system", "tools", "messages"}`, with messages as in a trace."""
        count = self._random.randint(1, turns)
        return {
            "system": self._maybe(self.plain()) if system else None,
            "tools": self._maybe(self.tools()) if tools else None,
            "messages": [
                message for _ in range(count) for message in self.turn(tools=tools, reasons=reasons)
            ],
        }

    def trace(self) -> dict[str, Any]:
        """Draw any valid trace, of both versions, with its steps in any order."""
        meta = self._maybe(self._object())
        if self._random.random() < 0.4:
            texts = [self.hard(filled=True) for _ in range(self._random.randint(1, 4))]
            kind = self._random.choice(("reason", "think", "поиск"))
            answer = self.hard(filled=True)
            return build_trace(self.hard(filled=True), texts, answer, meta=meta, step_type=kind)
        steps = [self._step() for _ in range(self._random.randint(0, 5))]
        is_call = bool(steps) and steps[-1]["type"] == "tool_call"
        trace = build_trace(
            self.hard(filled=True),
            steps,
            "" if is_call else self.hard(filled=True),
            meta=meta,
            system=self._maybe(self.hard(filled=True)),
            messages=self._maybe(self.marked(self.conversation()["messages"])),
            tools=self._maybe(self.tools()),
            reward=self._maybe(self._random.choice((0.0, 1.0, -0.5, 1e16, 3)), 0.3),
            labels=self._maybe(self._object(), 0.3),
        )
        self._random.shuffle(trace["steps"])
        return trace

    def _step(self) -> dict[str, Any]:
        kinds = ("reason", "think", "message", "tool_call", "tool_result")
        kind = self._random.choice(kinds)
        step = {"type": kind, "content": self.hard(filled=kind != "tool_result")}
        if kind == "tool_call":
            step["name"] = self._random.choice(NAMES)
        if kind in ("tool_call", "tool_result") and self._random.random() < 0.5:
            step["call_id"] = self.hard(filled=True)
        return step
