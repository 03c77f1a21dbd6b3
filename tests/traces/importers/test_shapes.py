"""Files in the shapes that other tools write have the stated traces and reasons.

The names are `NN_what.FORMAT.SUFFIX`. `make golden` writes the results to tests/golden/shapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuneloop.storage.rows.source import Source
from tuneloop.traces.client import TraceClient
from tuneloop.traces.files import ImportOptions, import_file

SHAPES = sorted((Path(__file__).parent / "shapes").iterdir())


class Kept(TraceClient):
    """A client that keeps what it would post."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")
        self.posted: list[Any] = []

    def post_dumped(self, traces: Any, key: str) -> list[str]:
        self.posted += map(json.loads, traces)
        return [str(number) for number in range(len(traces))]

    def check_stored(self, trace_id: str, trace: Any) -> None:
        """Believe it."""


def results(path: Path, refused: Path) -> dict[str, Any]:
    client = Kept()
    options = ImportOptions(path.name.split(".")[1])
    source = Source(str(path))
    counts = import_file(source, client, lambda done, total: None, options, str(refused))
    lines = refused.read_text().splitlines() if refused.exists() else []
    reasons = [json.loads(line)["reason"].replace(f"{path.parent}/", "") for line in lines]
    assert (len(client.posted), len(reasons)) == (counts.traces, counts.refused)
    return {"traces": client.posted, "refused": reasons, "skipped": counts.skipped}


@pytest.mark.golden
@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.name)
def test_a_file_has_the_stated_result(
    path: Path, tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    found = results(path, tmp_path / "refused.jsonl")
    text = json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True)
    golden(f"shapes/{path.name.split('.')[0]}.json", f"{text}\n")
