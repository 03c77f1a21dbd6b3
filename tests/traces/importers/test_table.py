from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke
from tuneloop.errors import DataError
from tuneloop.traces.importers.table import IMPORTERS, Importer
from tuneloop.traces.schema import build_trace


def trace_of_card(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Import a made-up format: flash cards."""
    if "front" not in value:
        raise DataError(f"{place}: front is missing, expected a card; fix the line")
    return build_trace(value["front"], value["notes"], value["back"], meta={"source": "cards"})


def test_an_importer_registered_from_outside_imports(
    tuneloop: Invoke, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(IMPORTERS, "cards", Importer(lambda: trace_of_card, "a flash card"))
    file = tmp_path / "cards.jsonl"
    file.write_text(json.dumps({"front": "2 + 2?", "notes": ["add", "done"], "back": "4"}))
    command = ("traces", "import", file, "--store", store, "--format")
    assert tuneloop(*command, "cards")[:2] == (0, f"1 traces of {file} are in the store\n")
    _, out, _ = tuneloop("traces", "export", "--store", store)
    assert json.loads(out) == build_trace("2 + 2?", ["add", "done"], "4", meta={"source": "cards"})
    file.write_text('{"back": "4"}')
    code, _, err = tuneloop(*command, "cards")
    assert (code, f"{file}:1: front is missing" in err) == (12, True)
    code, _, err = tuneloop(*command, "x")
    assert (code, "unknown, expected one of alpaca, atif, cards, gsm8k" in err) == (2, True)


def test_help_lists_every_format(tuneloop: Invoke) -> None:
    _, out, _ = tuneloop("traces", "import", "--help")
    assert all(f"{name}:" in out for name in IMPORTERS)
