"""The tiny training run, done once for all tests of a worker.

Only fixtures that need JAX import it, so that the other tests of this folder run without the extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import sentencepiece

    from tuneloop.training.sft.batches import TokenTable
    from tuneloop.training.sft.loop import Progress


@pytest.fixture(scope="session")
def tokenizer_model() -> bytes:
    from tests.training.tiny import EXAMPLES, SPEC
    from tuneloop.training.text.encode import tokenizer_sentences
    from tuneloop.training.text.trainer import train_tokenizer

    return train_tokenizer(tokenizer_sentences(EXAMPLES, None), SPEC.tokenizer)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_model: bytes) -> sentencepiece.SentencePieceProcessor:
    from tuneloop.training.text.sentencepiece_tokenizer import load_tokenizer

    return load_tokenizer(tokenizer_model)


@pytest.fixture(scope="session")
def table(tokenizer: sentencepiece.SentencePieceProcessor) -> TokenTable:
    from tests.training.tiny import build_table

    return build_table(tokenizer)


@pytest.fixture(scope="session")
def undisturbed(
    table: TokenTable,
    tokenizer: sentencepiece.SentencePieceProcessor,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Progress, bytes]:
    from tests.training.tiny import train

    return train(table, tokenizer.get_piece_size(), tmp_path_factory.mktemp("undisturbed"))
