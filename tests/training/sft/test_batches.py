from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tuneloop.errors import DataError
from tuneloop.specs.model import TokenizerSpec
from tuneloop.training.renderers import (
    END_OF_TURN,
    render_generation_prompt,
    render_training_text,
)
from tuneloop.training.schema import TrainingExample
from tuneloop.training.sft.batches import (
    LengthReport,
    TokenTable,
    batch_at,
    build_token_table,
    padded_length,
    sequential_batches,
)
from tuneloop.training.text.chat_format import ChatFormat, load_chat_format
from tuneloop.training.text.trainer import BOS_ID, tokenizer_sentences, train_tokenizer

PAD = 77
"""An id that also occurs in the text: nothing may depend on it."""


def example(number: int, response: str = "Answer: ok") -> TrainingExample:
    return TrainingExample(id=f"e{number}", prompt=f"Question {number}", response=response)


EXAMPLES = [example(number) for number in range(20)]


@pytest.fixture(scope="module")
def chat_format() -> ChatFormat:
    sentences = tokenizer_sentences(EXAMPLES, None)
    model = train_tokenizer(sentences, TokenizerSpec(vocab_size=300))
    return load_chat_format({"tokenizer.model": model}, place="tiny")


def table_of(
    examples: list[TrainingExample],
    chat_format: ChatFormat,
    **changes: Any,
) -> tuple[TokenTable, LengthReport]:
    options: dict[str, Any] = {
        "pad_id": PAD,
        "max_length_tokens": 64,
    }
    places = ((f"x.jsonl:{n}", e) for n, e in enumerate(examples, start=1))
    return build_token_table(
        places,
        lambda e: chat_format.encode_example(e.prompt, e.response, None),
        **{**options, **changes},
    )


def test_mask_covers_the_response_and_its_end_of_turn(
    chat_format: ChatFormat,
) -> None:
    table, _ = table_of(EXAMPLES[:1], chat_format)
    batch = batch_at(table, step=0, seed=0, batch_size=1, length=64)
    tokens, mask, is_token = batch.tokens[0], batch.loss_mask[0], batch.segment_ids[0] == 1
    assert chat_format.tokenizer.decode(tokens[mask].tolist()) == f"Answer: ok{END_OF_TURN}"
    prompt = tokens[: int(mask.argmax())].tolist()
    assert prompt[0] == BOS_ID
    assert tokens.tolist().count(BOS_ID) == 1
    assert chat_format.tokenizer.decode(prompt[1:]) == render_generation_prompt("Question 0")
    assert not mask[~is_token].any()
    assert set(tokens[~is_token].tolist()) == {PAD}
    text = render_training_text("Question 0", "Answer: ok")
    assert chat_format.tokenizer.decode(tokens[is_token][1:].tolist()) == text
    assert batch.token_count == int(is_token.sum()) == table.longest
    assert batch.example_ids == ("e0",)


def test_the_pad_id_may_be_an_id_of_the_text() -> None:
    """Id 0 is "!" in the tokenizers of Qwen 3 and Llama 3."""
    rows = {"e0": ([0, 5, 0], [0, 7]), "e1": ([5], [0])}
    examples = (("x", example(number)) for number in range(2))
    table, _ = build_token_table(examples, lambda e: rows[e.id], pad_id=0, max_length_tokens=8)
    (batch,) = sequential_batches(table, rows=[0, 1], batch_size=2, length=6)
    assert batch.tokens.tolist() == [[0, 5, 0, 0, 7, 0], [5, 0, 0, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]]
    assert batch.loss_mask.tolist() == [
        [False, False, False, True, True, False],
        [False, True, False, False, False, False],
    ]
    assert batch.token_count == 7


def test_rows_are_padded_to_the_longest_one_and_never_beyond_the_limit(
    chat_format: ChatFormat,
) -> None:
    table, _ = table_of(EXAMPLES, chat_format)
    assert table.longest <= padded_length(table, 1024) < table.longest + 8
    assert padded_length(table, 1024) % 8 == 0
    assert padded_length(table, table.longest) == table.longest


def test_sequential_batches_read_the_rows_once_in_one_shape(
    chat_format: ChatFormat,
) -> None:
    table, _ = table_of(EXAMPLES[:7], chat_format)
    batches = list(sequential_batches(table, rows=[0, 1, 2, 4, 5], batch_size=2, length=64))
    assert [batch.example_ids for batch in batches] == [("e0", "e1"), ("e2", "e4"), ("e5",)]
    assert {batch.tokens.shape for batch in batches} == {(2, 64)}
    assert batches[-1].segment_ids[1].sum() == batches[-1].loss_mask[1].sum() == 0
    every = sequential_batches(table, rows=range(7), batch_size=4, length=64)
    assert sum(batch.token_count for batch in every) == len(table.ids)


def test_batches_depend_on_seed_and_step_alone(
    chat_format: ChatFormat,
) -> None:
    table, _ = table_of(EXAMPLES, chat_format)
    batches = [batch_at(table, step=s, seed=3, batch_size=4, length=64) for s in range(5)]
    again = batch_at(table, step=3, seed=3, batch_size=4, length=64)
    assert np.array_equal(batches[3].tokens, again.tokens)
    assert not np.array_equal(batches[2].tokens, batches[3].tokens)
    other = batch_at(table, step=3, seed=4, batch_size=4, length=64)
    assert not np.array_equal(other.tokens, again.tokens)
    assert len({row.tobytes() for row in again.tokens}) == 4  # Rows are drawn without replacement.


def test_an_epoch_reads_every_row_once_and_an_added_one_moves_no_others(
    chat_format: ChatFormat,
) -> None:
    table, _ = table_of(EXAMPLES, chat_format)
    rows = [row for step in range(10) for row in table.rows_at(step, seed=3, batch_size=4)]
    assert sorted(rows[:20]) == sorted(rows[20:40]) == list(range(20))
    assert rows[:20] != rows[20:40]
    fewer, _ = table_of([*EXAMPLES[:7], *EXAMPLES[8:]], chat_format)
    left = [fewer.example_ids[r] for r in fewer.rows_at(0, seed=3, batch_size=19)]
    assert left == [id_ for row in rows[:20] if (id_ := table.example_ids[row]) != "e7"]


def test_a_batch_larger_than_the_table_holds_every_row(
    chat_format: ChatFormat,
) -> None:
    table, _ = table_of(EXAMPLES[:3], chat_format)
    batch = batch_at(table, step=0, seed=0, batch_size=7, length=64)
    assert batch.tokens.shape == (7, 64)
    assert len({row.tobytes() for row in batch.tokens}) == 3


LONG = [example(1), example(2, "Answer: " + "x" * 100), example(3)]


def test_an_example_over_the_limit_is_refused(
    chat_format: ChatFormat,
) -> None:
    with pytest.raises(DataError, match=r"x\.jsonl:2: example e2 has \d+ tokens, expected at mo"):
        table_of(LONG, chat_format)


def test_no_examples_is_an_error(chat_format: ChatFormat) -> None:
    with pytest.raises(DataError, match="training examples: found none"):
        table_of([], chat_format)
