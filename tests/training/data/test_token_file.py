from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tuneloop.artifacts.token_manifest import read_token_manifest
from tuneloop.errors import DataError
from tuneloop.specs.training.train import TrainSpec
from tuneloop.storage import files, paths
from tuneloop.training.data.batches import Rows
from tuneloop.training.data.encoding import Block, encode_block
from tuneloop.training.data.table import TokenTable, join_blocks
from tuneloop.training.data.token_file import ARRAYS, open_token_file, write_token_file
from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.rows import plain_row
from tuneloop.training.text.turns.encoder import EncodedRow

IDS = ["a", "é😀", "\ud800 alone", "a", "", "ﬁ\u2028\x00"]
"""Ids of any kind: of several bytes, with a lone surrogate, twice, empty."""


def blocks(ids: list[str], first: int = 0) -> Iterator[Block]:
    for number, each in enumerate(ids, start=first):
        example = TrainingExample(id=each, prompt="p", response="r")
        encoded = plain_row([number] * (number % 3 + 1), [100 + number] * 2)
        yield encode_block(
            [("x", example)], lambda e, encoded=encoded: [encoded], max_length_tokens=9
        )


@pytest.fixture(params=["file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder on a disk, or on a store whose files are downloaded."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    if request.param == "file":
        return str(tmp_path / "tokens" / "d1")
    return f"memory://{tmp_path.name}/tokens/d1"


def opened(folder: str) -> TokenTable:
    return open_token_file(folder, pad_id=77)[0]


def test_gaps_of_the_loss_are_read_back(folder: str) -> None:
    rows = {
        "a": [EncodedRow([1, 2, 3], ((1, 3),))],
        "b": [EncodedRow([4] * 9, ((2, 3), (5, 6), (8, 9))), EncodedRow([5] * 7, ((0, 4), (6, 7)))],
    }
    examples = [TrainingExample(id=each, prompt="p", response="r") for each in "ab"]

    def encoded() -> Iterator[Block]:
        for each in examples:
            yield encode_block([("x", each)], lambda e: rows[e.id], max_length_tokens=9)

    write_token_file(folder, encoded(), attempt="one")
    table, manifest = open_token_file(folder, pad_id=77)
    assert [table.example_ids[n] for n in range(3)] == ["a", "b", "b"]
    assert [table.gaps_of(n).tolist() for n in range(3)] == [[], [[3, 5], [6, 8]], [[4, 6]]]
    np.testing.assert_array_equal(table.gaps, join_blocks(encoded(), pad_id=77).gaps)
    assert (manifest.examples, manifest.trained_tokens) == (3, 2 + 3 + 5)
    assert manifest.longest_response_tokens == 4
    spec = TrainSpec(steps=1, batch_size=3, max_length_tokens=16)
    (batch,) = Rows(table, spec, batch_size=3).in_order()
    assert [np.flatnonzero(row).tolist() for row in batch.loss_mask] == [
        [1, 2],
        [2, 5, 8],
        [1, 2, 3, 6],  # the first token of a row is no target
    ]
    packed = TrainSpec(steps=1, batch_size=1, max_length_tokens=32, packing=True)
    (batch,) = Rows(table, packed, batch_size=1).in_order()
    assert batch.loss_mask.sum() == 2 + 3 + 4


def test_a_table_is_read_back_as_maps(folder: str) -> None:
    write_token_file(folder, blocks(IDS), attempt="one")
    table, manifest = open_token_file(folder, pad_id=77)
    expected = join_blocks(blocks(IDS), pad_id=77)
    for name in ("ids", "starts", "prompt_lengths", "lengths"):
        np.testing.assert_array_equal(getattr(table, name), getattr(expected, name))
    assert isinstance(table.ids.base, np.memmap)
    assert [table.example_ids[n] for n in range(len(table))] == IDS
    assert len(table.example_ids) == len(table) == 6
    assert manifest.examples == 6
    assert manifest.tokens == len(table.ids) == 24
    assert manifest.trained_tokens == 12
    assert (manifest.longest_tokens, manifest.longest_response_tokens) == (5, 2)


def test_no_examples_is_an_error_that_leaves_nothing(folder: str) -> None:
    with pytest.raises(DataError, match="training examples: found none, expected at least one"):
        write_token_file(folder, iter(()), attempt="one")
    assert files.list_files(folder) == []


def test_an_attempt_that_fails_leaves_nothing(folder: str) -> None:
    def failing() -> Iterator[Block]:
        yield from blocks(IDS)
        raise DataError("x:7: broken")

    with pytest.raises(DataError, match="x:7: broken"):
        write_token_file(folder, failing(), attempt="one")
    assert files.list_files(folder) == []
    with pytest.raises(DataError, match=r"manifest\.json: missing; run again"):
        opened(folder)


def test_the_first_of_two_writers_counts(folder: str) -> None:
    def slow() -> Iterator[Block]:
        write_token_file(folder, blocks(IDS), attempt="fast")
        yield from blocks(IDS)

    write_token_file(folder, slow(), attempt="slow")
    manifest = read_token_manifest(folder)
    assert manifest is not None
    assert {file.path.split("/")[1] for file in manifest.files} == {"fast"}
    assert len(files.list_files(folder)) == len(ARRAYS) + 1
    assert len(opened(folder)) == 6


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_file_is_refused_in_one_sentence(damage: str, folder: str) -> None:
    write_token_file(folder, blocks(IDS), attempt="one")
    url = paths.join(folder, "attempts/one/ids.bin")
    data = files.read(url)
    if damage == "missing":
        files.delete_tree(url)
    else:
        files.write(url, data[:-4] if damage == "truncated" else data[:-1] + b"\x01")
    with pytest.raises(DataError, match=rf"ids\.bin: .*; delete {folder} and run again, which en"):
        opened(folder)


def test_a_broken_manifest_is_refused_in_one_sentence(folder: str) -> None:
    files.write(paths.join(folder, "manifest.json"), b'{"files": []}')
    with pytest.raises(DataError, match=rf"manifest\.json: .*; delete {folder} and run again"):
        opened(folder)


def test_a_file_is_downloaded_once_and_again_if_the_copy_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = "memory://once/tokens/d2"
    write_token_file(folder, blocks(IDS), attempt="one")
    expected = opened(folder).ids.tolist()
    manifest = read_token_manifest(folder)
    assert manifest is not None
    (copy,) = tmp_path.glob(f"*/{manifest.files[0].sha256}")
    assert copy.parent.stat().st_mode & 0o77 == 0
    before = copy.stat().st_ino
    assert opened(folder).ids.tolist() == expected
    assert copy.stat().st_ino == before
    copy.write_bytes(b"damaged")
    assert opened(folder).ids.tolist() == expected
    assert not list(tmp_path.glob("*/.*.tmp"))
    # The copies are enough for a run whose store has lost the files.
    files.delete_tree(paths.join(folder, "attempts"))
    assert opened(folder).ids.tolist() == expected
