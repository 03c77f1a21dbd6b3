"""Train SentencePiece tokenizers that have Gemma's special ids.

A trained tokenizer is a deterministic function of its sentences and its spec. Sentences may be any
text.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import sentencepiece
from msgspec import UNSET

from tuneloop.errors import DataError
from tuneloop.specs.training.model import TokenizerSpec
from tuneloop.training.schema import TrainingExample

PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3
SPECIAL_PIECES = {PAD_ID: "<pad>", EOS_ID: "<eos>", BOS_ID: "<bos>", UNK_ID: "<unk>"}
"""Special pieces with the ids that Gemma uses; Tunix treats id 0 as padding."""

START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"
NEWLINE = "\n"
CONTROL_SYMBOLS = (START_OF_TURN, END_OF_TURN, NEWLINE)
"""Symbols that always have their own id and are never part of a longer piece."""

PIECE_MULTIPLE = 64
"""The vocabulary size is a multiple of this, so that the embedding rows divide evenly among
tensor-parallel devices."""

BYTE_PIECES = 256
"""Pieces for byte fallback, which encodes characters without a piece as their UTF-8 bytes."""

CHUNK_CHARACTERS = 4096
"""Characters per training sentence; longer ones are split, because SentencePiece silently skips
sentences over its byte limit."""

PADDING_PASSES = 4
"""Training attempts to reach a multiple of PIECE_MULTIPLE. Two are enough, unless the text contains
the padding symbols."""

# SentencePiece skips a whole sentence that has NUL or the reserved U+2585. Newline is a symbol of
# its own.
UNUSABLE_CHARACTERS = "\0\u2585\n"
SPACE_MARK = "\u2581"
"""How SentencePiece writes a space inside pieces."""

QUIET = 2
"""SentencePiece's log level for errors; lower levels are not written to stderr."""


def tokenizer_sentences(
    examples: Iterable[TrainingExample], system_instruction: str | None
) -> Iterator[str]:
    """Yield the sentences to train the tokenizer on: the lines of all turns, and the role names.

    The role names are repeated for every example, so that each of them becomes a single piece.
    """
    for example in examples:
        yield "user"
        yield from (system_instruction or "").split("\n")
        if example.conversation is not UNSET and not example.is_pair:
            for trained in (False, True):
                for text in example.conversation.texts(trained=trained):
                    yield from text.split("\n")
            yield "model"
            continue
        yield from example.prompt.split("\n")
        yield "model"
        yield from example.response.split("\n")


def train_tokenizer(sentences: Iterable[str], spec: TokenizerSpec) -> bytes:
    """Train a BPE tokenizer.

    The vocabulary is padded with unused symbols to a multiple of 64, so that the embedding can have
    exactly one row per piece. If the text has more distinct characters than fit in the vocabulary,
    the rarest ones use byte fallback.

    Args:
        sentences: any text. Pieces never span sentences, lines or chunk boundaries.
        spec: `vocab_size` is the requested size. A small text yields fewer pieces, and the 263
            pieces for byte fallback, control symbols and special ids are always included.

    Returns:
        A serialized SentencePiece model; the same arguments give the same bytes in every process.

    Raises:
        DataError: the sentences contain no text, or no multiple of 64 pieces can be reached.
    """
    texts = [text for sentence in sentences for text in _usable_texts(sentence)]
    if not texts:
        raise DataError(
            "tokenizer: the sentences contain no text, expected at least one character besides "
            "newlines; export a dataset with examples"
        )
    # Without a piece for the space, its mark is encoded as bytes and decodes to U+2581.
    texts.append(" ")
    fixed_pieces = len(SPECIAL_PIECES) + len(CONTROL_SYMBOLS) + BYTE_PIECES
    counts = Counter(character for text in texts for character in text.replace(" ", SPACE_MARK))
    # Leave room for the space mark and one learned character, even if the spec requests less.
    vocab_size = max(spec.vocab_size, fixed_pieces + 2)
    texts = list(_without_rare(texts, counts, room=vocab_size - fixed_pieces))
    unused = 0
    for _ in range(PADDING_PASSES):
        model = _train_bpe(texts, vocab_size + unused, unused)
        missing = -_piece_count(model) % PIECE_MULTIPLE
        if not missing:
            return model
        unused += missing
    raise DataError(
        f"tokenizer: training did not reach a multiple of {PIECE_MULTIPLE} pieces, expected "
        "text that does not contain <unused0>, <unused1>, ...; remove these from the traces"
    )


def _usable_texts(sentence: str) -> Iterator[str]:
    """Yield the parts of a sentence that SentencePiece can learn from."""
    # JSON can contain half of a surrogate pair, which UTF-8 cannot encode; it becomes "?".
    encodable = sentence.encode("utf-8", "replace").decode("utf-8")
    for line in re.split(f"[{UNUSABLE_CHARACTERS}]", encodable):
        for start in range(0, len(line), CHUNK_CHARACTERS):
            yield line[start : start + CHUNK_CHARACTERS]


def _without_rare(texts: list[str], counts: Counter[str], room: int) -> Iterator[str]:
    """Split texts at the rarest characters, which do not fit in the vocabulary.

    SentencePiece would fail on them. Its `character_coverage` cannot be used instead, because it
    accepts only 0.98 to 1 and some texts need less.

    Args:
        texts: training texts.
        counts: occurrences of each character.
        room: how many characters may have a piece.
    """
    if len(counts) <= room:
        yield from texts
        return
    # Ties are broken by code point, so that the order of the sentences does not matter.
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    kept = {SPACE_MARK, " ", *ranked[: room - 1]}
    for text in texts:
        parts = "".join(character if character in kept else NEWLINE for character in text)
        yield from filter(None, parts.split(NEWLINE))


def _train_bpe(texts: list[str], vocab_size: int, unused: int) -> bytes:
    """Run one SentencePiece training in memory, with this many `unused` padding symbols."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        # A small text cannot fill the vocabulary, which is not an error.
        hard_vocab_limit=False,
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        bos_id=BOS_ID,
        unk_id=UNK_ID,
        pad_piece=SPECIAL_PIECES[PAD_ID],
        eos_piece=SPECIAL_PIECES[EOS_ID],
        bos_piece=SPECIAL_PIECES[BOS_ID],
        unk_piece=SPECIAL_PIECES[UNK_ID],
        user_defined_symbols=[*CONTROL_SYMBOLS, *(f"<unused{i}>" for i in range(unused))],
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        # Decoding must return exactly the encoded text, so nothing is normalized.
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        # UTF-8 uses at most 4 bytes per character.
        max_sentence_length=4 * CHUNK_CHARACTERS,
        # With more threads the merge order could vary.
        num_threads=1,
        minloglevel=QUIET,
    )
    return model.getvalue()


def _piece_count(model: bytes) -> int:
    count: int = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    return count
