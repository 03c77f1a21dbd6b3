"""Rows of every file type, compressed or not, and of folders of datasets."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import pyzstd
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.errors import DataError, TuneloopError, UsageError
from tuneloop.storage.rows.json_rows import json_rows
from tuneloop.storage.rows.source import Source, iter_rows
from tuneloop.storage.rows.table import type_of

HARD = ["", "a,b", 'say "so"', "line\nline", "кот 😀", "\u2028", "  x  ", "שלום", "<|end|>"]
PLAIN: list[dict[str, Any]] = [{"n": str(n), "text": text} for n, text in enumerate(HARD)]


def read(path: Path | str, **options: Any) -> list[dict[str, Any] | None]:
    return [row.value for row in iter_rows(Source(str(path), **options))]


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv(rows: list[dict[str, Any]], mark: str = ",") -> bytes:
    quoted = [['"' + str(v).replace('"', '""') + '"' for v in row.values()] for row in rows]
    return "\r\n".join(mark.join(values) for values in [list(rows[0]), *quoted]).encode()


WRITTEN: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "rows.jsonl": _jsonl,
    "bom.jsonl": lambda rows: b"\xef\xbb\xbf\r\n" + _jsonl(rows).replace(b"\n", b"\r\n"),
    "array.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "rows.csv": _csv,
    "bom.csv": lambda rows: b"\xef\xbb\xbf" + _csv(rows),
    "rows.tsv": lambda rows: _csv(rows, "\t"),
    "no_suffix": _jsonl,
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("end", ["", ".gz", ".zst"])
def test_rows_are_read_from_every_text_file(tmp_path: Path, name: str, end: str) -> None:
    data = WRITTEN[name](PLAIN)
    packed = {"": data, ".gz": gzip.compress(data), ".zst": pyzstd.compress(data)}[end]
    path = tmp_path / f"{name}{end}"
    path.write_bytes(packed)
    assert read(path) == PLAIN


def test_several_members_of_gzip_are_one_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(_jsonl(PLAIN[:4])) + gzip.compress(_jsonl(PLAIN[4:])))
    assert read(path) == PLAIN


def test_one_object_over_several_lines_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps({"steps": [1, 2]}, indent=2))
    assert read(path) == [{"steps": [1, 2]}]


@given(values=st.lists(st.dictionaries(st.text(), st.integers() | st.text()), max_size=5))
def test_arrays_and_lines_are_the_same_rows(values: list[dict[str, Any]]) -> None:
    found = [
        [row.value for row in json_rows(iter([data]), "f")]
        for data in (json.dumps(values, indent=2).encode(), _jsonl(values))
    ]
    assert found == [values, values]


def test_parquet_and_arrow_hold_what_json_can_and_dates_as_text(tmp_path: Path) -> None:
    rows = [
        {
            "n": n,
            "text": text,
            "turns": [{"role": "user", "content": text, "name": None}],
            "day": datetime.date(2026, 11, 28),
            "price": decimal.Decimal("1.50"),
        }
        for n, text in enumerate(HARD)
    ]
    # A key that is null is absent, because all objects of a column have the same keys.
    turns = {n: [{"role": "user", "content": text}] for n, text in enumerate(HARD)}
    expected = [
        {**row, "turns": turns[n], "day": "2026-11-28", "price": "1.50"}
        for n, row in enumerate(rows)
    ]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    with pyarrow.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as file:
        file.write_table(table)
    with pyarrow.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema) as stream:
        stream.write_table(table)
    for name in ("a.parquet", "file.arrow", "stream.arrow"):
        assert read(tmp_path / name) == expected
    memory = "memory://rows/a.parquet"
    from tuneloop.storage import files

    files.write(memory, (tmp_path / "a.parquet").read_bytes())
    assert read(memory) == expected


def test_a_column_of_bytes_is_refused_unless_it_is_dropped(tmp_path: Path) -> None:
    rows = [{"text": "a", "image": {"bytes": b"\x89PNG"}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column 'image' holds bytes.*--drop image"):
        read(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", dropped=("image",)) == [{"text": "a"}]


def _arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)


def _save_to_disk(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-00002.arrow" for n in range(2)]
    for name, part in zip(names, (rows[:3], rows[3:]), strict=True):
        _arrow(folder / name, part)
    listed = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": listed, "_split": "train"}))
    (folder / "dataset_info.json").write_text("{}")


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path) -> None:
    _save_to_disk(tmp_path / "one", PLAIN)
    assert read(tmp_path / "one") == PLAIN
    both = tmp_path / "both"
    for split, rows in (("train", PLAIN), ("test", PLAIN[::-1])):
        _save_to_disk(both / split, rows)
    (both / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read(both, split="test") == PLAIN[::-1]
    with pytest.raises(UsageError, match=r"--split: is not given .*splits: test, train"):
        read(both)
    for options in ({"split": "test"}, {"subset": "main"}):
        with pytest.raises(UsageError, match=r"expected"):
            read(tmp_path / "one", **options)
    assert read(tmp_path / "one", split="train") == PLAIN
    (both / "test" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00002.arrow: no such file"):
        read(both, split="test")
    state = {"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [{}]}
    (tmp_path / "one" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=r"is a selection of the rows"):
        read(tmp_path / "one")


def test_a_folder_with_many_files_names_a_few_splits(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"file{number}x.jsonl").write_text("{}")
    with pytest.raises(UsageError, match=r"one of its splits: file0x, .* and 30 others"):
        read(tmp_path)


def test_the_names_of_files_in_a_repository_are_its_splits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        for number in range(2):
            path = tmp_path / "data" / f"{split}-{number:05d}-of-00002.jsonl"
            path.write_bytes(_jsonl([{"split": split, "n": number}]))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A dataset\n")
    (tmp_path / "data" / "dataset_info.json").write_text("{}")
    assert read(tmp_path, split="train") == [{"split": "train", "n": n} for n in range(2)]
    old = tmp_path / "data" / "old-00000-of-00001-b42a775f407cee45.jsonl"
    old.write_bytes(_jsonl([{"n": 9}]))
    assert read(tmp_path, split="old") == [{"n": 9}]
    with pytest.raises(UsageError, match=r"--split: is dev for .*splits: old, test, train"):
        read(tmp_path, split="dev")


def test_the_readme_of_a_repository_tells_subsets_and_splits(tmp_path: Path) -> None:
    for name in ("main/train.jsonl", "main/test.jsonl", "socratic/all.jsonl", "other.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_jsonl([{"file": name}]))
    (tmp_path / "README.md").write_text(
        "---\nlanguage: no\nconfigs:\n- config_name: main\n  data_files:\n"
        "  - {split: train, path: 'main/train*'}\n  - {split: test, path: ['main/test*']}\n"
        "- config_name: socratic\n  data_files: socratic/*\n---\n"
    )
    assert read(tmp_path, subset="main", split="test") == [{"file": "main/test.jsonl"}]
    assert read(tmp_path, subset="socratic") == [{"file": "socratic/all.jsonl"}]
    with pytest.raises(UsageError, match=r"--subset: is not given .*: main, socratic"):
        read(tmp_path)


_TWICE = pyarrow.BufferOutputStream()
pyarrow.parquet.write_table(pyarrow.table([[1], [2]], names=["a", "a"]), _TWICE)
BROKEN = {
    "cut.jsonl.gz": (gzip.compress(_jsonl(PLAIN) * 9)[:-20], "gzip data is truncated"),
    "bad.jsonl.gz": (b"\x1f\x8b\x08\x00xxxxxxxxxxxxxxxxxxxxxxxx", "is not valid gzip data"),
    "cut.jsonl.zst": (pyzstd.compress(_jsonl(PLAIN) * 9)[:-20], "zstd data is truncated"),
    "bad.jsonl.zst": (b"\x28\xb5\x2f\xfd" + b"x" * 40, "is not valid zstd data"),
    "a.parquet": (b"PAR1 nothing", "not a readable Parquet file"),
    "a.arrow": (b"nothing", "not a readable Arrow file"),
    "array.json": (b'[{"a": 1}, ', "begins with [ and is not a JSON array"),
    "object.json": (b'{\n"a": 1\n}\n{\n', "broken JSON (Extra data at line 4, column 1)"),
    "deep.json": (b"[" * 9999 + b"]" * 9999, "is a JSON array nested too deeply to read"),
    "table.jsonl": (b"PAR1", "is a Parquet file, expected text; add --file-type parquet"),
    "twice.parquet": (_TWICE.getvalue().to_pybytes(), "has the column 'a' twice"),
    "excel.csv": (b"\xef\xbb\xbfa;b\r\n1;2\r\n", "add --file-type semicolons"),
    "empty.csv": (b"", "has no first line, expected a header"),
    "quote.csv": (b'a,b\n"1,2\n', "quote.csv:2: broken CSV"),
    "latin.csv": (b"a,b\n1,\xe9\n", "a byte is not UTF-8"),
    "no_name.csv": (b"a,,c\n1,2,3\n", "has no name for column 2"),
    "twice.csv": (b"a,b,a\n1,2,3\n", "has the column 'a' twice"),
    "packed.csv": (b"PK\x03\x04", "is a zip archive"),
    "packed.jsonl": (b"PK\x03\x04", "is a zip archive"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    data, said = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_row_has_a_place_and_the_others_are_read(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'{"a": 1}\n{"a": \n[]\n\xff\n{"a": 1, "a": 2}\n{"a": 5}')
    rows = list(iter_rows(Source(str(lines))))
    assert [row.value for row in rows] == [{"a": 1}, None, None, None, None, {"a": 5}]
    assert all(str(row.problem).startswith(row.place) for row in rows if row.value is None)
    table = tmp_path / "a.csv"
    table.write_text('a,b\n"x\ny",2\n1\n1,2,3\n\n4,5\n')
    rows = list(iter_rows(Source(str(table))))
    assert [row.value for row in rows] == [
        {"a": "x\ny", "b": "2"},
        None,
        None,
        {"a": "4", "b": "5"},
    ]
    assert [row.place.rpartition(":")[2] for row in rows] == ["2", "4", "5", "7"]
    assert "has 1 values, expected 2 as in the header" in str(rows[1].problem)


def test_a_small_file_that_expands_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELOOP_LIMIT_EXPANSION", "10")
    monkeypatch.setenv("TUNELOOP_LIMIT_FREE_TEXT_BYTES", "1000")
    for name, pack in (("a.csv.gz", gzip.compress), ("a.csv.zst", pyzstd.compress)):
        (tmp_path / name).write_bytes(pack(b"a,b\n" + b"1,2\n" * 100_000))
        with pytest.raises(DataError, match=r"have expanded to more than"):
            read(tmp_path / name)


def test_what_is_not_yet_a_record_is_not_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELOOP_LIMIT_LINE_BYTES", str(1 << 20))
    lines = tmp_path / "blank.jsonl.gz"
    lines.write_bytes(gzip.compress(b"\n" * 4_000_000 + b"[]"))
    tracemalloc.start()
    found = [read(lines)]
    for text in (b'a,b\n"1,2\n', b"a,b\n1,2\n3", b"a"):
        (tmp_path / "a.csv").write_bytes(text + b",1" * 4_000_000)
        with pytest.raises(DataError, match=r"a.csv:[123]: the record has more than 1,048,576"):
            read(tmp_path / "a.csv")
    assert (found, tracemalloc.get_traced_memory()[1] < 64 << 20) == ([[]], True)
    tracemalloc.stop()


def test_the_line_after_blank_lines_keeps_its_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\r\n\n{}\nx\n")
    rows = list(iter_rows(Source(str(tmp_path / "a.jsonl"))))
    assert [row.place.rpartition(":")[2] for row in rows] == ["3", "4"]


def test_excel_and_pzstd(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfa;b\r\n1,5;"x;\r\ny"\r\n')
    assert read(path, file_type="semicolons") == [{"a": "1,5", "b": "x;\r\ny"}]
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00size"
    (tmp_path / "a.jsonl.zst").write_bytes(skippable + pyzstd.compress(b'{"a": 1}'))
    assert read(tmp_path / "a.jsonl.zst") == [{"a": 1}]


def test_a_place_without_a_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "absent.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TuneloopError, match=r"no such file|no data files"):
        read(tmp_path / "empty")
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(UsageError, match="is a file, expected a folder"):
        read(tmp_path / "a.jsonl", split="train")


def test_the_suffix_tells_the_type() -> None:
    names = ("A.CSV.gz", "x/b.parquet", "c.jsonl.zst", "-", "d.txt", "e.tsv", "f.arrow")
    types = ["csv", "parquet", "json", "json", "json", "tsv", "arrow"]
    assert [type_of(name) for name in names] == types
