from __future__ import annotations

import os
import pickle
from collections.abc import Iterator

import numpy as np
import pytest

from tuneloop.errors import DataError, OutOfMemory
from tuneloop.training.data import encoding
from tuneloop.training.data.encoding import ChatEncoder, encode_block, encode_blocks
from tuneloop.training.data.table import TokenTable, join_blocks
from tuneloop.training.renderers import (
    END_OF_TURN,
    render_generation_prompt,
    render_training_text,
)
from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.chat_format import ChatFormat
from tuneloop.training.text.rows import plain_row
from tuneloop.training.text.trainer import BOS_ID
from tuneloop.training.text.turns.encoder import EncodedRow


def example(number: int, response: str = "Answer: a") -> TrainingExample:
    return TrainingExample(id=f"e{number}", prompt=f"Say {number}", response=response)


def placed(examples: list[TrainingExample]) -> Iterator[tuple[str, TrainingExample]]:
    return ((f"x.jsonl:{n}", each) for n, each in enumerate(examples, start=1))


def encoded(
    examples: list[TrainingExample], chat_format: ChatFormat, processes: int = 1
) -> TokenTable:
    blocks = encode_blocks(
        placed(examples),
        ChatEncoder(chat_format, None),
        max_length_tokens=64,
        processes=processes,
    )
    return join_blocks(blocks, pad_id=77)


def test_the_loss_covers_the_response_and_its_end_of_turn(chat_format: ChatFormat) -> None:
    table = encoded([example(0)], chat_format)
    ids, prompt = table.ids.tolist(), int(table.prompt_lengths[0])
    assert chat_format.tokenizer.decode(ids[prompt:]) == f"Answer: a{END_OF_TURN}"
    assert ids[0] == BOS_ID
    assert ids.count(BOS_ID) == 1
    assert chat_format.tokenizer.decode(ids[1:prompt]) == render_generation_prompt("Say 0")
    assert chat_format.tokenizer.decode(ids[1:]) == render_training_text("Say 0", "Answer: a")


LONG = [example(1), example(2, "Answer: " + "x" * 100), example(3, "Answer: " + "x" * 100)]


def test_an_example_over_the_limit_is_refused(chat_format: ChatFormat) -> None:
    with pytest.raises(DataError, match=r"x\.jsonl:2: example e2 has \d+ tokens, expected at mo"):
        encoded(LONG, chat_format)


def test_several_processes_give_the_same_blocks_and_the_same_error(
    chat_format: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BLOCK_EXAMPLES", 2)
    examples = [example(n, "Answer: " + "ab" * (n % 5)) for n in range(15)]
    alone, together = (encoded(examples, chat_format, processes) for processes in (1, 2))
    for name in ("ids", "starts", "prompt_lengths"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(together, name))
    assert alone.example_ids == together.example_ids
    with pytest.raises(DataError, match=r"x\.jsonl:2: example e2 has \d+ tokens"):
        encoded(LONG, chat_format, 2)


def killed(example: TrainingExample) -> list[EncodedRow]:
    os._exit(9)


def test_a_killed_process_is_one_sentence() -> None:
    with pytest.raises(OutOfMemory, match="a process that encodes them was killed"):
        list(encode_blocks(placed([example(0)]), killed, max_length_tokens=8, processes=2))


def test_no_examples_are_no_blocks(chat_format: ChatFormat) -> None:
    encoder = ChatEncoder(chat_format, None)
    assert list(encode_blocks(iter(()), encoder, max_length_tokens=8)) == []


def test_metadata_is_not_sent_to_other_processes(chat_format: ChatFormat) -> None:
    from msgspec import Raw

    one = TrainingExample(id="é😀", prompt="p", response="r", metadata={"a": Raw(b"1")})
    (block,) = encode_blocks(
        iter([("x", one)]), ChatEncoder(chat_format, None), max_length_tokens=64
    )
    assert block.example_ids == ("é😀",)


def test_a_chat_format_is_pickled_with_its_files(chat_format: ChatFormat) -> None:
    again = pickle.loads(pickle.dumps(chat_format))
    assert again.digest == chat_format.digest
    assert again.encode_example("Say a", "b", "Be kind") == chat_format.encode_example(
        "Say a", "b", "Be kind"
    )


def test_the_digest_of_an_encoder_depends_on_format_and_instruction(
    chat_format: ChatFormat,
) -> None:
    found = ChatEncoder(chat_format, None).digest
    assert found == ChatEncoder(pickle.loads(pickle.dumps(chat_format)), None).digest
    assert found != ChatEncoder(chat_format, "Be kind").digest


@pytest.mark.parametrize(("examples", "processes"), [(0, 1), (19_999, 1), (10**9, None)])
def test_processes_are_started_for_many_examples_only(examples: int, processes: int | None) -> None:
    cores = min(len(os.sched_getaffinity(0)), encoding.MAX_PROCESSES)
    assert encoding.count_processes(examples) == (processes or cores)


def test_a_block_keeps_the_lengths() -> None:
    rows = {"e0": ([1, 2], [3]), "e1": ([4], [5, 6, 7])}
    block = encode_block(
        placed([example(0), example(1)]), lambda e: [plain_row(*rows[e.id])], max_length_tokens=4
    )
    assert block.ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert block.lengths.tolist() == [3, 4]
    assert block.prompt_lengths.tolist() == [2, 1]
