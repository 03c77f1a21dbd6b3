"""Encode conversations: the ids of the chat template, and which of them the loss covers.

A message of the assistant is trained on only after exactly the ids that generation starts from.
Some templates rewrite earlier messages, for example Qwen 3's, which drops their thinking blocks.
Such a message is trained on in a row of its own that ends with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tuneloop.errors import DataError, SpecError
from tuneloop.training.conversation import Conversation
from tuneloop.training.text.layout import QUESTION, REPLY, THOUGHT
from tuneloop.training.text.turns.messages import Messages, template_messages, template_tools
from tuneloop.training.text.turns.stand_in import StandIn, Word, stand_in

if TYPE_CHECKING:
    from tuneloop.training.text.chat_format import ChatFormat

_Turn = Callable[[int], tuple[str, str]]
"""Number of a message -> the text that generation starts from, and the message with its end."""
_NAMES = {
    "system": "the system text",
    "content": "the text of a message beside its tool calls or results",
    "reasoning": "the reasoning",
    "call": "a tool call",
    "tool": "the definition of a tool",
}


class EncodedRow(NamedTuple):
    """One row to train on."""

    ids: list[int]
    trained: tuple[tuple[int, int], ...]
    """Half-open ranges of `ids` that the loss covers, in order; the last one ends the row."""

    @property
    def trained_count(self) -> int:
        """Count the ids that the loss covers."""
        return sum(stop - start for start, stop in self.trained)


class TurnEncoder:
    """Encodes conversations with one chat format."""

    def __init__(self, chat_format: ChatFormat) -> None:
        """Prepare the marks that end a turn."""
        self._chat = chat_format
        texts = [chat_format.tokenizer.decode([each]) for each in chat_format.stop_ids]
        self._stop = _any_of(texts)
        self._control = _any_of(chat_format.control.tokens)
        self._check: Callable[[bytes, int, tuple[int, ...]], int] = lru_cache(4096)(
            self._checked_stand_in
        )
        self._check_asked: Callable[[bytes], int] = lru_cache(4096)(self._checked_asked)

    def encode_prompt(self, conversation: Conversation, instruction: str | None) -> list[int]:
        """Encode the text before the model's first token.

        Args:
            conversation: a conversation that ends with a message of the user or of a tool.
            instruction: system instruction of the run; None for no text.

        Returns:
            The ids. The last row of the conversation with an answer begins with them.

        Raises:
            DataError: the template cannot write the conversation, or content and template spell a
                control token together.
            SpecError: the conversation has thinking blocks, and the model's are switched off.
        """
        messages, tools = self._template_input(conversation, instruction)
        ids = self._chat.tokenizer.encode(self._render(messages, tools, generation_prompt=True))
        self._check_control(ids, self._check_asked(msgspec.json.encode(stand_in(messages, tools))))
        return ids

    @cached_property
    def call_mark(self) -> str:
        """The text that begins a call of a tool; empty if the template writes no calls.

        It is the first control token that a message with a call has and a message without one does
        not have. Without such a token it is all text before the name of the tool.
        """
        thought = {"reasoning_content": THOUGHT} if self._chat.thinking == "steps" else {}
        user: dict[str, Any] = {"role": "user", "content": QUESTION}
        reply = {"role": "assistant", "content": REPLY, **thought}
        function = {"name": "lookup", "arguments": {}}
        call = {"type": "function", "id": "call00000", "function": function}
        try:
            _, plain = self._turn([user, reply], [], 1)
            _, called = self._turn([user, {**reply, "content": "", "tool_calls": [call]}], [], 1)
        except DataError:
            return ""
        opening, name, _ = called.partition("lookup")
        marks = [each for each in self._control.findall(opening) if each not in plain]
        if not name:
            return ""
        return marks[0] if marks else opening.rpartition(THOUGHT)[2].lstrip()

    def encode(self, conversation: Conversation, instruction: str | None) -> list[EncodedRow]:
        """Encode a conversation.

        Args:
            conversation: the conversation; its loss says which messages are trained on.
            instruction: system instruction of the run; None for no text.

        Returns:
            The rows. There is one, unless the template rewrites messages that the loss covers.

        Raises:
            DataError: the template cannot write the conversation, or content and template spell a
                control token together.
            SpecError: the conversation has thinking blocks, and the model's are switched off.
        """
        chat = self._chat
        messages, tools = self._template_input(conversation, instruction)
        key = msgspec.json.encode(stand_in(messages, tools))
        first = len(messages) - len(conversation.messages)  # a system message comes first
        waiting = [first + each for each in conversation.trained_messages()]
        if not waiting or waiting[-1] != len(messages) - 1:
            raise DataError(
                f"{chat.template.place}: the conversation does not end with a message of the"
                " assistant, which training needs; fix the trace"
            )

        @cache  # a row of its own and the rows after it ask for the same message
        def turn(number: int) -> tuple[str, str]:
            return self._turn(messages, tools, number)

        rows = []
        while waiting:
            row, found = self._row(turn, waiting)
            self._check_control(row.ids, self._check(key, waiting[-1], tuple(found)))
            rows.append(row)
            waiting = [each for each in waiting if each not in found]
        return rows[::-1]

    def _template_input(
        self, conversation: Conversation, instruction: str | None
    ) -> tuple[Messages, list[Any]]:
        """Return messages and tools as the template reads them."""
        self._check_thinking(conversation)
        chat = self._chat
        messages = template_messages(
            conversation, instruction, chat.layout, chat.thinking, chat.control
        )
        return messages, template_tools(conversation, chat.control)

    def _check_thinking(self, conversation: Conversation) -> None:
        chat = self._chat
        if not conversation.think_block or chat.thinking == "steps" or not chat.can_think:
            return
        if any(message.reasoning for message in conversation.messages):
            raise SpecError(
                "train.thinking: is plain, but examples of the recipe chat_v1 have reasoning, and"
                f" {chat.template.place} has a thinking block for it; set train.thinking to steps,"
                " or build the dataset with the recipe answer_only_v1"
            )

    def _row(self, turn: _Turn, waiting: Sequence[int]) -> tuple[EncodedRow, list[int]]:
        """Encode the messages up to the last one that waits, and list those it trains on."""
        *earlier, last = waiting
        before, closed = turn(last)
        whole = before + closed
        ids = self._chat.tokenizer.encode(whole)
        start_ids = self._chat.tokenizer.encode(before)
        if ids[: len(start_ids)] != start_ids:
            ids = [*start_ids, *self._encode_rest(start_ids, ids, closed)]
        spans, found = [(len(start_ids), len(ids))], [last]
        for each in reversed(earlier):
            span = self._span(turn, each, whole, ids)
            if span is not None:
                spans.append(span)
                found.append(each)
        return EncodedRow(ids, tuple(reversed(spans))), found

    def _turn(self, messages: Messages, tools: list[Any], number: int) -> tuple[str, str]:
        """Render what generation starts from for a message, and the message with its end."""
        before = self._render(messages[:number], tools, generation_prompt=True)
        through = self._render(messages[: number + 1], tools, generation_prompt=False)
        if not through.startswith(before):
            raise DataError(
                f"{self._chat.template.place}: a conversation does not begin with its generation"
                f" prompt {before[-40:]!r}; the template expects reasoning there, or allows no text"
                " beside tool calls; set train.thinking to another value, or use another model"
            )
        rest = through[len(before) :]
        stop = self._stop.search(rest)
        if stop is not None:
            return before, rest[: stop.end()]
        ends = [each.end() for each in self._control.finditer(rest)]
        if not ends:
            raise DataError(
                f"{self._chat.template.place}: no control token closes the message"
                f" {rest[:40]!r}, which generation could stop at; use another chat template"
            )
        return before, rest[: ends[-1]]

    def _span(self, turn: _Turn, number: int, whole: str, ids: list[int]) -> tuple[int, int] | None:
        """Return the ids of an earlier message; None if the whole does not hold it as generated."""
        try:
            before, closed = turn(number)
        except DataError:
            return None  # its own row says why
        if not whole.startswith(before + closed):
            return None
        start = self._chat.tokenizer.encode(before)
        stop = self._chat.tokenizer.encode(before + closed)
        if ids[: len(start)] != start or ids[: len(stop)] != stop:
            return None  # a token spans the end of the text
        return len(start), len(stop)

    def _encode_rest(self, start_ids: list[int], ids: list[int], closed: str) -> list[int]:
        """Encode a message on its own, because a token spans its beginning."""
        tokenizer = self._chat.tokenizer
        rest = tokenizer.encode(closed)
        if tokenizer.decode([*start_ids, *rest]) != tokenizer.decode(ids):
            raise DataError(
                f"{self._chat.template.place}: the ids of {closed[:40]!r} after the generation"
                " prompt spell another text; begin responses with a letter"
            )
        return rest

    def _checked_stand_in(self, key: bytes, last: int, trained: tuple[int, ...]) -> int:
        """Return the control tokens of a row's stand-in, whose texts must all be written."""
        messages, tools, words = msgspec.json.decode(key, type=StandIn)
        text = "".join(self._turn(messages, tools, last))
        self._check_words([each for each in words if (each.message or 0) <= last], text, trained)
        return self._chat.count_control(self._chat.tokenizer.encode(text))

    def _checked_asked(self, key: bytes) -> int:
        """Return the control tokens of the stand-in of a prompt."""
        messages, tools, words = msgspec.json.decode(key, type=StandIn)
        text = self._render(messages, tools, generation_prompt=True)
        self._check_words(words, text, ())
        return self._chat.count_control(self._chat.tokenizer.encode(text))

    def _check_words(self, words: Sequence[Word], text: str, trained: tuple[int, ...]) -> None:
        """Refuse a stand-in with a text that is not written; earlier reasoning may be dropped."""
        for word in words:
            if word.text in text:
                continue
            if word.what != "reasoning" or word.message in trained:
                raise DataError(
                    f"{self._chat.template.place}: the chat template does not write"
                    f" {_NAMES[word.what]}, so the model would not see it; use a model whose"
                    " template writes it"
                )

    def _check_control(self, ids: list[int], expected: int) -> None:
        found = self._chat.count_control(ids)
        if found != expected:
            raise DataError(
                f"{self._chat.template.place}: a conversation has {found} control tokens, expected"
                f" {expected}; its content spells one together with the template, so change the"
                " content"
            )

    def _render(self, messages: Messages, tools: list[Any], *, generation_prompt: bool) -> str:
        return self._chat.template.render(
            messages,
            generation_prompt=generation_prompt,
            thinking=self._chat.thinking == "steps",
            tools=tools,
        )


def _any_of(texts: Sequence[str] | frozenset[str]) -> re.Pattern[str]:
    """Return a pattern of these texts, the longest first."""
    ordered = sorted((each for each in texts if each), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)))
