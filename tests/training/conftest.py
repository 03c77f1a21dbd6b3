"""The tiny training run, done once for all tests of a worker.

Only fixtures that need JAX import it, so that the other tests of this folder run without the extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tuneloop.training.data.table import TokenTable
    from tuneloop.training.sft.loop import Progress
    from tuneloop.training.text.chat_format import ChatFormat


@pytest.fixture(scope="session")
def tokenizer_model() -> bytes:
    from tests.training.tiny import EXAMPLES, SPEC
    from tuneloop.training.text.trainer import tokenizer_sentences, train_tokenizer

    return train_tokenizer(tokenizer_sentences(EXAMPLES, None), SPEC.tokenizer)


@pytest.fixture(scope="session")
def chat_format(tokenizer_model: bytes) -> ChatFormat:
    from tuneloop.training.text.chat_format import load_chat_format

    return load_chat_format({"tokenizer.model": tokenizer_model}, place="tiny")


@pytest.fixture(scope="session")
def table(chat_format: ChatFormat) -> TokenTable:
    from tests.training.tiny import build_table

    return build_table(chat_format)


@pytest.fixture(scope="session")
def undisturbed(
    table: TokenTable,
    chat_format: ChatFormat,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Progress, bytes]:
    from tests.training.tiny import train

    return train(table, chat_format.tokenizer.vocab_size, tmp_path_factory.mktemp("undisturbed"))
