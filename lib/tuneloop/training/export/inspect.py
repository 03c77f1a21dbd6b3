"""Show an example as training sees it: its turns, its tokens, and which tokens the loss covers.

Text, ids and mask come from the same functions that training calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tuneloop import templating
from tuneloop.errors import DataError
from tuneloop.storage import files, lines
from tuneloop.training.chat_templates import ChatTemplate
from tuneloop.training.export.files import is_examples_file, text_blocks
from tuneloop.training.schema import TrainingExample, parse_example

if TYPE_CHECKING:
    import sentencepiece

SPLIT_PREFIXES = ("examples-", "validation-")


class Piece(NamedTuple):
    """A token, or a part of the text if there is no tokenizer."""

    text: str
    trained: bool
    """Whether the loss covers this piece."""


@dataclass(frozen=True)
class Inspection:
    """One example in the form that training uses."""

    example: TrainingExample
    text: str
    """Training text, without `<bos>`."""
    pieces: tuple[Piece, ...]
    """The whole text in order, with `<bos>` if there is a tokenizer."""
    has_tokens: bool
    """Whether the pieces are tokens; if not, sizes are in characters."""
    roles: tuple[str, ...] | None
    """Roles of the turns found in the text; None if a turn is not closed properly."""
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


def inspect_example(
    example: TrainingExample,
    template: ChatTemplate,
    system_instruction: str | None,
    tokenizer: sentencepiece.SentencePieceProcessor | None,
) -> Inspection:
    """Render an example and split it into pieces with and without loss.

    Args:
        example: the example.
        template: chat template of the model.
        system_instruction: system instruction of the run.
        tokenizer: splits the text into tokens; None gives two pieces, the generation prompt and
            the response.
    """
    before = template.render_generation_prompt(example.prompt, system_instruction)
    after = template.render_closed_response(example.response)
    if tokenizer is None:
        pieces = [Piece(before, False), Piece(after, True)]
    else:
        # A tokenizer is only there with the train extra, which this import needs.
        from tuneloop.training.text.encode import encode_generation_prompt, encode_response

        prompt = encode_generation_prompt(tokenizer, example.prompt, system_instruction, template)
        response = encode_response(tokenizer, example.response, template)
        pieces = [
            Piece(tokenizer.id_to_piece(token).replace("\u2581", " "), trained)
            for ids, trained in ((prompt, False), (response, True))
            for token in ids
        ]
    return Inspection(
        example=example,
        text=before + after,
        pieces=tuple(pieces),
        has_tokens=tokenizer is not None,
        roles=template.roles_in(before + after),
        expected_roles=template.turns(system_instruction),
    )


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
            found = lines.iter_lines(text_blocks(file, files.iter_blocks(file)))
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
