"""Show an example as training sees it: its turns, its tokens, and which tokens the loss covers.

Ids and mask come from the same functions that training calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import UNSET

from tuneloop import templating
from tuneloop.errors import DataError
from tuneloop.storage import files, lines
from tuneloop.training.chat_templates import ChatTemplate
from tuneloop.training.conversation import Conversation
from tuneloop.training.export.files import is_examples_file, text_blocks
from tuneloop.training.schema import TrainingExample, parse_example

if TYPE_CHECKING:
    from tuneloop.training.text.chat_format import ChatFormat
    from tuneloop.training.text.tokenizers import Tokenizer

SPLIT_PREFIXES = ("examples-", "validation-")
INCOMPLETE = "\ufffd"
"""What decoders write for the bytes of an incomplete character."""


CONTEXT_TOKENS = 16
"""Tokens around a window that are decoded too, because its ends may lie within a character."""


class Piece(NamedTuple):
    """A token, or a part of the text if there is no tokenizer."""

    text: str
    trained: bool
    """Whether the loss covers this piece."""
    id: int | None = None
    """Id of the token; None if there is no tokenizer."""
    special: bool = False
    """Whether it is a control token, which content cannot spell."""


@dataclass(frozen=True)
class TokenWindow:
    """Some consecutive tokens of an example."""

    pieces: tuple[Piece, ...]
    start: int
    """Number of the first of them, from 0."""
    total: int
    """Tokens of the whole example."""
    trained: int
    """Tokens of the whole example that the loss covers."""


@dataclass(frozen=True)
class Inspection:
    """One example in the form that training uses."""

    example: TrainingExample
    text: str
    """Training text; without `<bos>` if there is no tokenizer."""
    pieces: tuple[Piece, ...]
    """The whole text in order."""
    has_tokens: bool
    """Whether the pieces are tokens; if not, sizes are in characters."""
    roles: tuple[str, ...] | None
    """Roles of the turns; None if a turn is not closed properly."""
    expected_roles: tuple[str, ...]
    """Roles of the turns that the chat template should produce."""

    @property
    def trained(self) -> int:
        """Count the tokens that the loss covers, or the characters without a tokenizer."""
        return sum(self._size(piece) for piece in self.pieces if piece.trained)

    @property
    def total(self) -> int:
        """Count all tokens, or all characters without a tokenizer."""
        return sum(self._size(piece) for piece in self.pieces)

    def _size(self, piece: Piece) -> int:
        return 1 if self.has_tokens else len(piece.text)

    def summary(self) -> str:
        """Describe size, share under the loss and turns in one line."""
        unit = "tokens" if self.has_tokens else "characters (no tokenizer given)"
        share = 100 * self.trained / self.total
        turns = ", ".join(self.expected_roles)
        if self.roles != self.expected_roles:
            found = "broken" if self.roles is None else ", ".join(self.roles)
            turns = f"WRONG: {found}, expected {turns}"
        return f"{self.total} {unit}, loss on {self.trained} ({share:.1f} %), turns: {turns}"


def inspect_text(
    example: TrainingExample, template: ChatTemplate, system_instruction: str | None
) -> Inspection:
    """Render an example with a built-in template: its prompt, and its response with loss.

    Raises:
        DataError: the example uses tools, which built-in templates do not write.
    """
    if example.conversation is not UNSET:
        return _inspect_turns(example, example.conversation, template, system_instruction)
    before = template.render_generation_prompt(example.prompt, system_instruction)
    after = template.render_closed_response(example.response)
    return Inspection(
        example=example,
        text=before + after,
        pieces=(Piece(before, False), Piece(after, True)),
        has_tokens=False,
        roles=template.roles_in(before + after),
        expected_roles=template.turns(system_instruction),
    )


def inspect_example(
    example: TrainingExample, chat_format: ChatFormat, system_instruction: str | None
) -> Inspection:
    """Encode an example as training does, and show each token with and without loss.

    Args:
        example: the example.
        chat_format: tokenizer and chat template of the model.
        system_instruction: system instruction of the run.

    Raises:
        DataError: the chat template cannot render the example.
    """
    ids, trained = _encode(example, chat_format, system_instruction)
    pieces = _pieces(ids, 0, len(ids), trained, chat_format)
    # Content that would open or close a turn is refused when it is encoded.
    roles = _roles(example, chat_format, system_instruction)
    return Inspection(
        example=example,
        text=chat_format.tokenizer.decode(ids),
        pieces=pieces,
        has_tokens=True,
        roles=roles,
        expected_roles=roles,
    )


def inspect_window(
    example: TrainingExample,
    chat_format: ChatFormat,
    system_instruction: str | None,
    *,
    start: int,
    count: int,
) -> TokenWindow:
    """Encode an example as training does, and show some of its tokens.

    Args:
        example: the example.
        chat_format: tokenizer and chat template of the model.
        system_instruction: system instruction of the run.
        start: number of the first token to show, from 0.
        count: maximum number of tokens to show.

    Raises:
        DataError: the chat template cannot render the example.
    """
    ids, trained = _encode(example, chat_format, system_instruction)
    pieces = _pieces(ids, start, start + count, trained, chat_format)
    return TokenWindow(pieces, start, len(ids), sum(trained))


def example_texts(example: TrainingExample) -> list[tuple[str, bool]]:
    """Return the texts of an example, without turn marks, and whether the loss covers them."""
    if example.conversation is UNSET:
        return [(example.prompt, False), (example.response, True)]
    return [(f"{text}\n", trained) for text, trained in example.conversation.parts()]


def token_counts(
    example: TrainingExample, chat_format: ChatFormat, system_instruction: str | None
) -> tuple[int, int]:
    """Count the tokens of an example that the loss does not cover, and those that it covers."""
    ids, trained = _encode(example, chat_format, system_instruction)
    return len(ids) - sum(trained), sum(trained)


def _encode(
    example: TrainingExample, chat_format: ChatFormat, system_instruction: str | None
) -> tuple[list[int], list[bool]]:
    """Return the ids of an example, all rows one after the other, and which the loss covers."""
    from tuneloop.training.text.rows import encode_rows

    ids: list[int] = []
    trained: list[bool] = []
    for row in encode_rows(example, chat_format, system_instruction):
        mask = [False] * len(row.ids)
        for start, stop in row.trained:
            mask[start:stop] = [True] * (stop - start)
        ids += row.ids
        trained += mask
    return ids, trained


def _roles(
    example: TrainingExample, chat_format: ChatFormat, system_instruction: str | None
) -> tuple[str, ...]:
    if example.conversation is UNSET:
        return chat_format.roles(system_instruction)
    roles = tuple(each.role for each in example.conversation.messages)
    has_system = bool(system_instruction or example.conversation.system)
    return ("system", *roles) if has_system and chat_format.layout.has_system_role else roles


def _inspect_turns(
    example: TrainingExample,
    conversation: Conversation,
    template: ChatTemplate,
    system_instruction: str | None,
) -> Inspection:
    """Render a conversation without tools with a built-in template."""
    if conversation.uses_tools():
        raise DataError(
            f"example {example.id}: uses tools, which no built-in chat template writes; give a"
            " model with --model"
        )
    turns = list(template.turns_of(conversation, system_instruction))
    first = len(turns) - len(conversation.messages)
    whole = template.render(turns, open_turn=False)
    pieces, at = [], 0
    for number in conversation.trained_messages():
        before = template.render(turns[: first + number], open_turn=True)
        through = template.render(turns[: first + number + 1], open_turn=False)
        pieces += [Piece(whole[at : len(before)], False), Piece(through[len(before) :], True)]
        at = len(through)
    return Inspection(
        example=example,
        text=whole,
        pieces=tuple(pieces),
        has_tokens=False,
        roles=template.roles_in(whole),
        expected_roles=tuple(template.role_name(turn.role) for turn in turns),
    )


def _pieces(
    ids: Sequence[int], start: int, stop: int, trained: Sequence[bool], chat_format: ChatFormat
) -> tuple[Piece, ...]:
    """Return the tokens from `start` to `stop`; `trained` says which the loss covers."""
    special = chat_format.control_ids.union(chat_format.stop_ids)
    begin = max(0, start - CONTEXT_TOKENS)
    texts = _texts_of(ids[begin : stop + CONTEXT_TOKENS], chat_format.tokenizer)
    return tuple(
        Piece(text, trained[at], ids[at], ids[at] in special)
        for at, text in enumerate(texts, start=begin)
        if start <= at < stop
    )


def _texts_of(ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the text of each token; a character of several tokens is shown with the last one."""
    waiting: list[int] = []
    context, before = list[int](), ""
    for number, token in enumerate(ids, start=1):
        waiting.append(token)
        # Some decoders drop the space at the beginning, so a token is decoded after another one.
        text = tokenizer.decode([*context, *waiting])
        text = text.removeprefix(before) if text.startswith(before) else tokenizer.decode(waiting)
        # A character has at most four bytes, and each of its tokens has at least one.
        if INCOMPLETE in text and len(waiting) < 4 and number < len(ids):
            yield ""
        else:
            yield text
            context, waiting = waiting, []
            before = tokenizer.decode(context)


def render_html(inspection: Inspection) -> str:
    """Render a self-contained page in which the tokens under the loss are coloured."""
    return templating.render("training/export/inspect.html.j2", inspection=inspection).rstrip()


def iter_examples(url: str) -> Iterator[tuple[str, TrainingExample]]:
    """Stream the examples of one file, or of all files of an export below a prefix.

    Yields:
        The location, as `URL:line`, and the example.

    Raises:
        DataError: there is no such file, or a line is not a valid example.
    """
    urls = [url] if is_examples_file(url) else _files_below(url)
    for file in urls:
        try:
            found = lines.iter_lines(text_blocks(file, files.iter_blocks(file)), file)
            for number, line in enumerate(found, start=1):
                place = f"{file}:{number}"
                yield place, parse_example(line, place)
        except FileNotFoundError as e:
            raise DataError(f"{file}: no such file, expected examples; check the URL") from e


def _files_below(prefix: str) -> list[str]:
    found = [
        url
        for url in files.list_files(prefix)
        if url.rpartition("/")[2].startswith(SPLIT_PREFIXES) and is_examples_file(url)
    ]
    if not found:
        raise DataError(
            f"{prefix}: found no files examples-*.jsonl, expected those of an export; give the"
            " prefix of an attempt, or the URL of a file"
        )
    return found


def find_example(url: str, example_id: str) -> tuple[str, TrainingExample]:
    """Find an example by its own id or by the id of its trace.

    Returns:
        The location, as `URL:line`, and the example.

    Raises:
        DataError: there is no such example.
    """
    wanted = msgspec.Raw(msgspec.json.encode(example_id))
    for place, example in iter_examples(url):
        if example.id == example_id or example.metadata.get("source_trace_id") == wanted:
            return place, example
    raise DataError(
        f"{url}: found no example with id or source_trace_id {example_id}; look for the trace in"
        " exclusions.jsonl, which lists excluded traces with the reason"
    )
