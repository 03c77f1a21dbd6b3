"""How one model reads and writes chat: its tokenizer and its chat template together.

The ids of a prompt are a prefix of the ids of an example with that prompt. Content cannot spell a
control token. Which ids the loss covers follows from lengths, never from the value of an id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tuneloop import jsonl
from tuneloop.errors import DataError, SpecError
from tuneloop.traces.response_text import render_response
from tuneloop.training.control_tokens import ControlTokens
from tuneloop.training.renderers import CONTROL_TOKENS, apply_system_instruction
from tuneloop.training.text.jinja_template import TODAY, JinjaTemplate, find_template
from tuneloop.training.text.layout import (
    Layout,
    Message,
    Template,
    Thinking,
    builtin_template,
    learn_layout,
)
from tuneloop.training.text.model_tokens import (
    find_closing_id,
    find_control_ids,
    find_eos_ids,
    special_tokens,
)
from tuneloop.training.text.tokenizers import Tokenizer, load_tokenizer_files, tokenizer_file
from tuneloop.training.text.turns.encoder import TurnEncoder
from tuneloop.training.thinking_text import render_thinking, render_unclosed, split_response

STAND_IN = "x"
"""Content that spells no control token."""
THINKING_STAND_IN = render_response([STAND_IN], STAND_IN)
"""A response with reasoning that spells no control token."""


@dataclass(frozen=True)
class ChatFormat:
    """The tokenizer and the chat template of one model; see `load_chat_format`."""

    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]
    """Ids that end a response: the end of a turn first, then the ends of text."""
    pad_id: int
    """A valid id to fill rows with; it can also stand in text."""
    digest: str
    """sha256 of everything that determines ids: tokenizer, template and thinking mode."""
    thinking: Thinking
    template: Template
    layout: Layout
    control: ControlTokens
    """The tokens that content must not spell."""
    control_ids: frozenset[int]
    """Ids of `control`."""
    _source: tuple[Mapping[str, bytes], str] = field(repr=False)
    """The files that it was loaded from, and their place."""
    _expected: dict[tuple[bool, tuple[str, ...]], tuple[int, int]] = field(
        default_factory=dict, repr=False
    )
    """Control tokens of prompt and response, by (has a system instruction, stand-ins of the
    responses)."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the files, because a compiled template cannot be pickled."""
        return _load_again, (*self._source, self.thinking)

    @property
    def vocab_size(self) -> int:
        """Embedding rows that conversations need: the highest id that they can have, + 1.

        Control tokens that the template never writes do not count, because content cannot spell
        them: Gemma 3's tokenizer has an image token for which its text models have no row.
        """
        prompt, response = self.encode_example(STAND_IN, STAND_IN, STAND_IN)
        unused = self.control_ids - {*prompt, *response, *self.stop_ids, self.pad_id}
        size = self.tokenizer.vocab_size
        while size - 1 in unused:
            size -= 1
        return size

    def encode_prompt(
        self, prompt: str, system: str | None, shots: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        """Encode the text before the model's first token.

        Args:
            prompt: user text.
            system: system instruction; None for no text.
            shots: earlier turns as (user text, response).

        Returns:
            The ids; the first is `<bos>` or alike where the template writes it.

        Raises:
            DataError: the template fails, or content and template spell a control token together.
        """
        messages = self._messages(prompt, system, shots)
        ids = self.tokenizer.encode(self._render(messages, generation_prompt=True))
        responses = [*(response for _, response in shots), STAND_IN]
        self._check_control(ids, self._expected_control(system, responses)[0])
        return ids

    def encode_example(
        self, prompt: str, response: str, system: str | None
    ) -> tuple[list[int], list[int]]:
        """Encode a training example.

        Returns:
            The ids of the prompt, as `encode_prompt` gives them, and those that the loss covers:
            the response and the mark that closes the turn.

        Raises:
            DataError: as `encode_prompt`; or the template breaks the prefix property for this text.
        """
        messages = self._messages(prompt, system, ())
        before = self._render(messages, generation_prompt=True)
        whole = self._render([*messages, self._answer(response)], generation_prompt=False)
        if not whole.startswith(before):
            raise DataError(
                f"{self.template.place}: the training text of a prompt that begins with"
                f" {prompt[:40]!r} does not begin with its generation prompt; use another model"
            )
        prompt_ids = self.tokenizer.encode(before)
        response_ids = self._closed(self._rest_of(prompt_ids, whole, len(before)))
        expected = self._expected_control(system, [response])
        self._check_control(prompt_ids, expected[0])
        self._check_control(response_ids, expected[1])
        return prompt_ids, response_ids

    def encode_conversation(self, prompt: str, response: str, system: str | None) -> list[int]:
        """Encode a whole example at once, up to the mark that closes the model's turn."""
        messages = [*self._messages(prompt, system, ()), self._answer(response)]
        ids = self.tokenizer.encode(self._render(messages, generation_prompt=False))
        start = len(self.encode_prompt(prompt, system))
        return [*ids[:start], *self._closed(ids[start:])]

    def decode_response(self, ids: Sequence[int]) -> str:
        """Decode generated ids up to the first stop id, as a recipe's `parse_response` reads them.

        Text from a thinking block is put in marks of `<think>`, whatever the model's marks are.
        """
        stop = next((at for at, each in enumerate(ids) if each in self.stop_ids), len(ids))
        text = self.tokenizer.decode(ids[:stop])
        if self.thinking == "plain":
            return self.control.restore(text.removeprefix(self.layout.lead))
        opening, closing = self.layout.lead.strip(), self.layout.middle.strip()
        thought, closed, answer = text.partition(closing)
        if not closed and not thought.lstrip().startswith(opening):
            return self.control.restore(text)  # the model answers without thinking
        reasoning = thought.lstrip().removeprefix(opening).strip("\n")
        if not closed:
            return render_unclosed(self.control.restore(reasoning))
        return render_thinking(
            self.control.restore(reasoning), self.control.restore(answer.lstrip("\n"))
        )

    @cached_property
    def can_think(self) -> bool:
        """Whether the model's template has a thinking block."""
        if self.thinking == "steps":
            return True
        try:
            learn_layout(self.template, "steps")
        except (DataError, SpecError):
            return False
        return True

    @cached_property
    def turns(self) -> TurnEncoder:
        """Encoder of whole conversations."""
        return TurnEncoder(self)

    def roles(self, system: str | None) -> tuple[str, ...]:
        """Return the roles of an example's turns, in order."""
        messages = self._messages("", system, ())
        return (*(message["role"] for message in messages), "assistant")

    def _messages(
        self, prompt: str, system: str | None, shots: Sequence[tuple[str, str]]
    ) -> list[Message]:
        users = [*(user for user, _ in shots), prompt]
        messages: list[Message] = []
        if system and self.layout.has_system_role:
            messages.append({"role": "system", "content": self.control.neutralise(system)})
        elif system:
            users[0] = apply_system_instruction(users[0], system)
        for number, user in enumerate(users):
            messages.append({"role": "user", "content": self.control.neutralise(user)})
            if number < len(shots):
                messages.append(self._answer(shots[number][1]))
        return messages

    def _answer(self, response: str) -> Message:
        if self.thinking == "plain":
            return {"role": "assistant", "content": self.control.neutralise(response)}
        reasoning, answer = split_response(response)
        return {
            "role": "assistant",
            "content": self.control.neutralise(answer),
            "reasoning_content": self.control.neutralise(reasoning),
        }

    def _render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        return self.template.render(
            messages, generation_prompt=generation_prompt, thinking=self.thinking == "steps"
        )

    def _rest_of(self, prompt_ids: list[int], whole: str, start: int) -> list[int]:
        """Encode the rest of a text whose beginning, up to `start`, is `prompt_ids`."""
        ids = self.tokenizer.encode(whole)
        if ids[: len(prompt_ids)] == prompt_ids:
            return ids[len(prompt_ids) :]
        # A token spans the end of the prompt. The model will start after the prompt's ids, so the
        # response is encoded on its own, if that spells the same text.
        rest = self.tokenizer.encode(whole[start:])
        if self.tokenizer.decode([*prompt_ids, *rest]) != self.tokenizer.decode(ids):
            raise DataError(
                f"{self.template.place}: the ids of {whole[start : start + 40]!r} after the"
                " generation prompt spell another text; begin responses with a letter"
            )
        return rest

    def _closed(self, ids: list[int]) -> list[int]:
        """Cut what the template writes after the mark that closes the turn."""
        for at, each in enumerate(ids):
            if each == self.stop_ids[0]:
                return ids[: at + 1]
        raise DataError(
            f"{self.template.place}: found no {self.stop_ids[0]} after a response, expected the id"
            " that closes the turn; get the model's chat template again"
        )

    def _expected_control(self, system: str | None, responses: Sequence[str]) -> tuple[int, int]:
        """Count the control tokens of a conversation whose content has none.

        Args:
            system: system instruction; None for no text.
            responses: those of the shots, and the last one.
        """
        # Some templates write the marks of reasoning only where there is reasoning.
        thinks = self.thinking == "steps"
        stands = tuple(
            THINKING_STAND_IN if thinks and split_response(each)[0] else STAND_IN
            for each in responses
        )
        key = (bool(system), stands)
        if key not in self._expected:
            turns = [(STAND_IN, each) for each in stands[:-1]]
            messages = self._messages(STAND_IN, STAND_IN if system else None, turns)
            before = self._render(messages, generation_prompt=True)
            whole = self._render([*messages, self._answer(stands[-1])], generation_prompt=False)
            rest = self._closed(self.tokenizer.encode(whole[len(before) :]))
            self._expected[key] = (
                self.count_control(self.tokenizer.encode(before)),
                self.count_control(rest),
            )
        return self._expected[key]

    def count_control(self, ids: Iterable[int]) -> int:
        """Count the control tokens among ids."""
        return sum(map(self.control_ids.__contains__, ids))

    def _check_control(self, ids: list[int], expected: int) -> None:
        found = self.count_control(ids)
        if found != expected:
            text = self.tokenizer.decode(ids[:20])
            raise DataError(
                f"{self.template.place}: the text beginning {text!r} has {found} control tokens,"
                f" expected {expected}; its content spells one together with the template, so"
                " change the content"
            )


def load_chat_format(
    files: Mapping[str, bytes], *, place: str, thinking: Thinking = "plain"
) -> ChatFormat:
    """Load the tokenizer and the chat template of a model.

    A model without a template gets the built-in one whose turn marks its tokenizer has.

    Args:
        files: contents by name, as in the model's folder: tokenizer.json or tokenizer.model,
            tokenizer_config.json, special_tokens_map.json, chat_template.jinja,
            generation_config.json and config.json. All but the tokenizer may be missing.
        place: the folder, for error messages.
        thinking: where the reasoning steps of a response go.

    Raises:
        DataError: a file is not valid, there is no template, or it cannot be used.
        SpecError: `thinking` is `steps`, and the template does not know thinking.
    """
    tokenizer = load_tokenizer_files(files, place)
    special = special_tokens(files, place)
    found = find_template(files, place)
    template: Template
    if found is not None:
        template = JinjaTemplate(found[0], special, found[1])
        control = ControlTokens(tokenizer.added_tokens)
    else:
        template = builtin_template(tokenizer, place)
        # The renderer of Gemma protects these tokens, whether or not the tokenizer has them.
        control = ControlTokens([*tokenizer.added_tokens, *CONTROL_TOKENS])
    layout = learn_layout(template, thinking)
    control_ids = find_control_ids(tokenizer, control, place)
    closing_id = find_closing_id(tokenizer, template, layout, control_ids)
    eos_ids = find_eos_ids(files, tokenizer, special, place)
    stop_ids = tuple(dict.fromkeys([closing_id, *eos_ids]))
    pad = tokenizer.token_id(special.get("pad_token", "<pad>"))
    identity = {
        "tokenizer": hashlib.sha256(tokenizer_file(files)).hexdigest(),
        "added_tokens": tokenizer.added_tokens,
        "template": template.source,
        "special_tokens": special,
        "stop_ids": stop_ids,
        "thinking": thinking,
        "today": TODAY.isoformat(),
    }
    return ChatFormat(
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        pad_id=stop_ids[0] if pad is None else pad,
        digest=hashlib.sha256(jsonl.dump_line(identity)).hexdigest(),
        thinking=thinking,
        template=template,
        layout=layout,
        control=control,
        control_ids=control_ids,
        _source=(dict(files), place),
    )


def _load_again(files: Mapping[str, bytes], place: str, thinking: Thinking) -> ChatFormat:
    return load_chat_format(files, place=place, thinking=thinking)


def check_prefix_property(
    chat_format: ChatFormat, samples: Iterable[tuple[str, str]], system: str | None = None
) -> None:
    """Check that generation starts from what training has seen, in text and in ids.

    Args:
        chat_format: format of the model.
        samples: (prompt, response) of some examples.
        system: system instruction of the run.

    Raises:
        DataError: for one of the samples, the ids of the prompt do not begin the ids of the whole
            conversation, or decoding the response's ids does not give back the response.
    """
    place = chat_format.template.place
    for prompt, response in samples:
        start = chat_format.encode_prompt(prompt, system)
        prompt_ids, response_ids = chat_format.encode_example(prompt, response, system)
        if prompt_ids != start:
            raise DataError(
                f"{place}: the ids of the prompt {prompt[:40]!r} differ between training and"
                " generation; use another model"
            )
        if chat_format.encode_conversation(prompt, response, system) != [*start, *response_ids]:
            raise DataError(
                f"{place}: the ids of a conversation that begins with {prompt[:40]!r} do not begin"
                " with the ids of its prompt; use another model"
            )
        found, expected = chat_format.decode_response(response_ids), response
        if chat_format.thinking == "steps":
            expected = render_thinking(*split_response(response))
        # Templates trim white space, and tokenizers compose characters: compare words.
        tokenizer = chat_format.tokenizer
        if found.split() != tokenizer.decode(tokenizer.encode(expected)).split():
            raise DataError(
                f"{place}: the response {response[:40]!r} reads {found[:40]!r} after encoding and"
                " decoding; use another model"
            )
