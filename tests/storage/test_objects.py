"""Many objects at once: list, read and delete them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tuneloop.errors import TuneloopError
from tuneloop.storage import files
from tuneloop.storage.objects import (
    StoredObject,
    delete_objects,
    list_objects,
    read_many,
    read_small,
    remove_empty_folders,
    storage_time,
)

ODD = ("a[b]*?.txt", "ab.txt", "ünïcode 🟡/x", "per%20cent#1", " space ", "-rf", "new\nline")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name in ODD:
        files.write(f"{tmp_path}/{name}", name.encode())
    return str(tmp_path)


def test_list_with_sizes_and_times(folder: str) -> None:
    Path(folder, "empty", "folder").mkdir(parents=True)
    os.utime(Path(folder, "ab.txt"), (1e9, 1e9))
    found = {each.name: each for each in list_objects(folder)}
    assert sorted(found) == sorted(ODD)
    moment = datetime.fromtimestamp(1e9, UTC)
    assert found["ab.txt"] == StoredObject("ab.txt", 6, moment)
    assert found["ünïcode 🟡/x"].size_bytes == len("ünïcode 🟡/x".encode())
    assert list_objects(f"{folder}/") == list_objects(folder)
    assert list_objects(f"{folder}/never was") == []
    assert list_objects("memory://never-was/objects") == []


def test_times_of_other_storages() -> None:
    before = datetime.now(UTC)
    files.write("memory://objects-test/a/b", b"1")
    (found,) = list_objects("memory://objects-test/a")
    assert found.modified is not None
    assert before <= found.modified <= datetime.now(UTC)
    time = storage_time("memory://objects-test")
    assert time is not None
    assert before <= time <= datetime.now(UTC)
    assert [each.name for each in list_objects("memory://objects-test")] == ["a/b"]


def test_read_keeps_the_order(folder: str) -> None:
    urls = [f"{folder}/{name}" for name in (*ODD, "never was", *ODD)]
    assert read_many(urls) == [*(n.encode() for n in ODD), None, *(n.encode() for n in ODD)]
    assert read_many([]) == []
    with pytest.raises(FileNotFoundError):
        read_small(f"{folder}/never was")


def test_characters_of_patterns_are_characters(folder: str) -> None:
    delete_objects(folder, ["a[b]*?.txt", "never was", "ünïcode 🟡/x"])
    assert {each.name for each in list_objects(folder)} == set(ODD) - {"a[b]*?.txt", "ünïcode 🟡/x"}
    assert not Path(folder, "ünïcode 🟡").exists()
    delete_objects(folder, [])


def test_an_object_that_cannot_be_deleted_is_an_error_and_the_others_are_deleted(
    folder: str,
) -> None:
    Path(folder, "is a folder").mkdir()
    with pytest.raises(TuneloopError, match="is a folder"):
        delete_objects(folder, ["is a folder", *ODD])
    assert list_objects(folder) == []


def test_empty_folders_go_and_others_stay(folder: str) -> None:
    Path(folder, "empty", "folder").mkdir(parents=True)
    Path(folder, "full", "folder").mkdir(parents=True)
    Path(folder, "full", "file").touch()
    remove_empty_folders(folder)
    assert not Path(folder, "empty").exists()
    assert {path.name for path in Path(folder, "full").iterdir()} == {"file"}
    remove_empty_folders(f"{folder}/never was")
    remove_empty_folders("memory://never-was")
