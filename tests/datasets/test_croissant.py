"""The description of a dataset in Croissant."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke, letter_trace, publish_dataset
from tuneloop.datasets.read import croissant_url, load_manifest
from tuneloop.datasets.schema import TraceRow


def described(folder: Path, shard_rows: int) -> tuple[Path, dict[str, Any]]:
    traces = [letter_trace(number) for number in range(26)]
    key = publish_dataset(str(folder), traces, shard_rows=shard_rows)
    path = Path(croissant_url(str(folder), key))
    return path.parent, json.loads(path.read_bytes())


@pytest.mark.parametrize(("shard_rows", "shards"), [(100, 1), (10, 3)])
def test_every_file_is_there_with_its_digest(tmp_path: Path, shard_rows: int, shards: int) -> None:
    folder, value = described(tmp_path, shard_rows)
    files = [each for each in value["distribution"] if each["@type"] == "cr:FileObject"]
    assert len(files) == shards
    for each in files:
        data = (folder / each["contentUrl"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == each["sha256"]
        assert each["contentSize"] == f"{len(data)} B"
    sets = [each for each in value["distribution"] if each["@type"] == "cr:FileSet"]
    found = [sorted(folder.glob(each["includes"])) for each in sets]
    assert found == ([[folder / each["contentUrl"] for each in files]] if shards > 1 else [])


@pytest.mark.parametrize("shard_rows", [10, 100])
def test_every_field_is_a_column_of_what_the_record_set_reads(
    tmp_path: Path, shard_rows: int
) -> None:
    _, value = described(tmp_path, shard_rows)
    assert (value["@type"], value["name"]) == ("sc:Dataset", "letters-v1")
    assert value["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    identifiers = {each["@id"] for each in value["distribution"]}
    (records,) = value["recordSet"]
    columns = set()
    for field in records["field"]:
        source = dict(field["source"])
        columns.add(source.pop("extract")["column"])
        ((_, named),) = source.items()
        assert named["@id"] in identifiers
        assert field["@id"] == f"{records['@id']}/{field['name']}"
    assert columns <= set(TraceRow.__struct_fields__)


def test_a_build_again_restores_a_missing_description(tmp_path: Path) -> None:
    folder, value = described(tmp_path, 100)
    (folder / "croissant.json").unlink()
    assert described(tmp_path, 100) == (folder, value)


def test_the_description_is_printed(tmp_path: Path, tuneloop: Invoke) -> None:
    _, value = described(tmp_path, 100)
    options = ("--artifacts", str(tmp_path))
    code, out, _ = tuneloop("datasets", "show", "letters-v1", "--croissant", *options)
    assert (code, json.loads(out)) == (0, value)


def test_a_dataset_is_exported_for_other_tools(tmp_path: Path, tuneloop: Invoke) -> None:
    described(tmp_path, 100)
    options = ("--artifacts", str(tmp_path), "--format")
    code, out, err = tuneloop("datasets", "export", "letters-v1", *options, "trl")
    first = json.loads(out.splitlines()[0])
    assert (code, err, len(out.splitlines())) == (0, "", 26)
    assert first["completion"] == [
        {"role": "assistant", "content": "A", "reasoning_content": "a -> A"}
    ]
    assert json.loads(first["tuneloop"]) == {"meta": {"number": 0, "source": "test"}}
    code, _, err = tuneloop("datasets", "export", "letters-v1", *options, "openai")
    assert (code, err) == (0, "--format openai does not hold the whole meta of 26 traces\n")
    code, _, err = tuneloop("datasets", "export", "letters-v1", *options, "x")
    assert (code, "expected one of atif, axolotl, messages" in err) == (2, True)
    assert load_manifest(str(tmp_path), "letters-v1").trace_count == 26
