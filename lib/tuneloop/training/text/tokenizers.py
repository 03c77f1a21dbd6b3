"""A small SentencePiece tokenizer trained on the examples' own text, with Gemma's special ids.

One rule: the model's bytes are a function of the sentences and the spec alone, and any text at all
can be a sentence.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece

from tuneloop.errors import DataError
from tuneloop.specs.model import TokenizerSpec

PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3
SPECIAL_PIECES = {PAD_ID: "<pad>", EOS_ID: "<eos>", BOS_ID: "<bos>", UNK_ID: "<unk>"}
"""Gemma's ids; Tunix takes 0 for padding."""

START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"
NEWLINE = "\n"
CONTROL_SYMBOLS = (START_OF_TURN, END_OF_TURN, NEWLINE)
"""Text that is always one id of its own and never part of a longer piece."""

PIECE_MULTIPLE = 64
"""The piece count, which is the embedding's row count, must divide over tensor-parallel devices."""

BYTE_PIECES = 256
"""Byte fallback: characters without a piece of their own are spelled in UTF-8 bytes."""

CHUNK_CHARACTERS = 4096
"""Sentences are cut here: SentencePiece skips those over its byte limit without an error."""

PADDING_PASSES = 4
"""Two are enough unless the text itself spells the padding symbols."""

# NUL and the "reserved" U+2585 make SentencePiece skip the whole sentence; newline is a symbol.
UNUSABLE_CHARACTERS = "\0\u2585\n"
SPACE_MARK = "\u2581"
"""How SentencePiece writes a space inside pieces."""

QUIET = 2
"""Least log level that reaches stderr: errors."""


def train_tokenizer(sentences: Iterable[str], spec: TokenizerSpec) -> bytes:
    """Train a BPE tokenizer.

    The vocabulary is padded with unused symbols to a multiple of 64, so that the embedding can have
    exactly as many rows as there are pieces. Where the text has more distinct characters than the
    vocabulary has room, the rarest are left to byte fallback.

    Args:
        sentences: any text; pieces never reach across sentences, lines or cut points.
        spec: `vocab_size` is what is asked for: small text yields fewer pieces, and byte fallback
            and control symbols (263 pieces) are never left out.

    Returns:
        A serialized SentencePiece model; the same bytes for the same arguments in every process.

    Raises:
        DataError: if the sentences hold no text.
    """
    texts = [text for sentence in sentences for text in _usable_texts(sentence)]
    if not texts:
        raise DataError(
            "tokenizer: the sentences hold no text, expected at least one character besides "
            "newlines; export a dataset with examples"
        )
    # Without a piece for the space, its mark is spelled in bytes and decodes as U+2581.
    texts.append(" ")
    fixed_pieces = len(SPECIAL_PIECES) + len(CONTROL_SYMBOLS) + BYTE_PIECES
    counts = Counter(character for text in texts for character in text.replace(" ", SPACE_MARK))
    # Room for the space mark plus one learned character even if the spec asks for less.
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
        f"tokenizer: the piece count did not settle on a multiple of {PIECE_MULTIPLE}, expected "
        "text that does not spell <unused0>, <unused1>, ...; remove these from the traces"
    )


def load_tokenizer(
    model: bytes, turn_marks: Sequence[str] = (START_OF_TURN, END_OF_TURN)
) -> sentencepiece.SentencePieceProcessor:
    """Load a tokenizer and check what training and generation rely on.

    Args:
        model: a serialized SentencePiece model.
        turn_marks: of the model family.

    Returns:
        The processor; pad, eos, bos, unk are ids 0, 1, 2, 3, and each turn mark is one id.

    Raises:
        DataError: if the bytes are no model or the ids are others.
    """
    # SentencePiece takes empty bytes for "no model given" and fails only when used.
    if not model:
        raise DataError("tokenizer: found 0 bytes, expected a SentencePiece model; train it again")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise DataError(
            f"tokenizer: found {len(model)} bytes that are no SentencePiece model; train it again"
        ) from error
    _check_special_ids(processor)
    _check_turn_marks(processor, turn_marks)
    return processor


def _usable_texts(sentence: str) -> Iterator[str]:
    """The parts of a sentence that SentencePiece can learn from."""
    # JSON can carry half a surrogate pair, which has no UTF-8 form; it becomes "?".
    encodable = sentence.encode("utf-8", "replace").decode("utf-8")
    for line in re.split(f"[{UNUSABLE_CHARACTERS}]", encodable):
        for start in range(0, len(line), CHUNK_CHARACTERS):
            yield line[start : start + CHUNK_CHARACTERS]


def _without_rare(texts: list[str], counts: Counter[str], room: int) -> Iterator[str]:
    """Texts split at the characters that find no room; SentencePiece fails rather than drop them.

    Its own `character_coverage` cannot be used: it takes 0.98 to 1, and text can need less.
    """
    if len(counts) <= room:
        yield from texts
        return
    # Code points settle ties, so that the order of the sentences does not matter.
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    kept = {SPACE_MARK, " ", *ranked[: room - 1]}
    for text in texts:
        parts = "".join(character if character in kept else NEWLINE for character in text)
        yield from filter(None, parts.split(NEWLINE))


def _train_bpe(texts: list[str], vocab_size: int, unused: int) -> bytes:
    """One SentencePiece training with `unused` padding symbols, in memory."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        # Little text cannot fill the vocabulary; that is no error.
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
        # Decoding must give the very text back: no added, removed or normalized character.
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        # UTF-8 takes 4 bytes a character at most.
        max_sentence_length=4 * CHUNK_CHARACTERS,
        # More threads may merge in another order.
        num_threads=1,
        minloglevel=QUIET,
    )
    return model.getvalue()


def _piece_count(model: bytes) -> int:
    count: int = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    return count


def _check_special_ids(processor: sentencepiece.SentencePieceProcessor) -> None:
    found = (processor.pad_id(), processor.eos_id(), processor.bos_id(), processor.unk_id())
    expected = (PAD_ID, EOS_ID, BOS_ID, UNK_ID)
    if found != expected:
        raise DataError(
            f"tokenizer: pad, eos, bos, unk are ids {found}, expected {expected} as in Gemma; "
            "use a tokenizer made by tuneloop or Gemma's own"
        )


def _check_turn_marks(
    processor: sentencepiece.SentencePieceProcessor, turn_marks: Sequence[str]
) -> None:
    for mark in turn_marks:
        ids = processor.encode(mark)
        if len(ids) != 1 or ids[0] == UNK_ID:
            raise DataError(
                f"tokenizer: {mark} encodes to {len(ids)} ids {ids}, expected one id of its own; "
                "use a tokenizer made by tuneloop or Gemma's own"
            )
