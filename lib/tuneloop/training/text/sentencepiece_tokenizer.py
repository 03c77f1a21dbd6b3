"""Tokenizers of the file tokenizer.model, run by the package `sentencepiece`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tuneloop.errors import DataError
from tuneloop.training.text.tokenizers import encodable


class SentencePieceTokenizer:
    """A tokenizer of the file tokenizer.model, such as Gemma's or one that tuneloop has trained."""

    def __init__(self, model: bytes) -> None:
        """Load a serialized model; see `load`."""
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        pieces = proto.pieces
        self._adds_space: bool = proto.normalizer_spec.add_dummy_prefix
        # SentencePiece itself never reads control pieces from text, only user-defined ones.
        self._control = {
            piece.piece: token_id
            for token_id, piece in enumerate(pieces)
            if piece.type == kinds.CONTROL
        }
        self._control_texts = {token_id: text for text, token_id in self._control.items()}
        self._added = tuple(
            piece.piece for piece in pieces if piece.type in (kinds.CONTROL, kinds.USER_DEFINED)
        )
        longest_first = sorted(self._control, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @classmethod
    def load(cls, model: bytes, place: str) -> SentencePieceTokenizer:
        """Load a serialized model.

        Raises:
            DataError: the bytes are not such a model, or it adds a space before every text, which
                would also be added after every control token.
        """
        # SentencePiece treats empty bytes as "no model given" and fails only on first use.
        if not model:
            raise DataError(
                f"{place}: found 0 bytes, expected a SentencePiece model; get the file again"
            )
        try:
            loaded = cls(model)
        except RuntimeError as e:
            raise DataError(
                f"{place}: found {len(model)} bytes, expected a SentencePiece model; get the file"
                " again"
            ) from e
        if loaded._adds_space:
            raise DataError(
                f"{place}: puts a space before every text, which is not supported; give the model's"
                " tokenizer.json"
            )
        return loaded

    @property
    def vocab_size(self) -> int:
        """Number of pieces, which is the highest id + 1."""
        size: int = self._processor.get_piece_size()
        return size

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Control pieces and user-defined pieces, in the order of their ids."""
        return self._added

    def encode(self, text: str) -> list[int]:
        """Encode text; control pieces written in it become their ids."""
        ids: list[int] = []
        parts = self._split.split(encodable(text)) if self._control else [encodable(text)]
        for number, part in enumerate(parts):
            if number % 2:
                ids.append(self._control[part])
            elif part:
                ids += self._processor.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids, control pieces included."""
        return "".join(self._decoded_parts(ids))

    def _decoded_parts(self, ids: Sequence[int]) -> Iterator[str]:
        plain: list[int] = []
        for token_id in map(int, ids):
            if token_id in self._control_texts:
                yield self._processor.decode(plain)
                yield self._control_texts[token_id]
                plain = []
            elif token_id < self.vocab_size:
                plain.append(token_id)
        yield self._processor.decode(plain)

    def token_id(self, token: str) -> int | None:
        """Return the id of a piece; None if there is no such piece."""
        found: int = self._processor.piece_to_id(token)
        return found if self._processor.id_to_piece(found) == token else None
