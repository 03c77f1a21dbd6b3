"""The page on imports names every format, type of file and mark of reasoning, and no others."""

from __future__ import annotations

import re

from tests.builders import REPOSITORY
from tuneloop.storage.rows.table import FILE_TYPES
from tuneloop.traces.exporters.table import EXPORTERS
from tuneloop.traces.importers.table import IMPORTERS
from tuneloop.traces.importers.text import BLOCKS

PAGE = (REPOSITORY / "docs" / "how-to" / "import.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


def test_every_import_format_has_a_section() -> None:
    assert re.findall(r"^### `(\w+)`$", section("Formats"), re.MULTILINE) == list(IMPORTERS)


def test_every_type_of_file_and_its_suffixes_are_listed() -> None:
    text = section("Types of files")
    assert first_cells(text) == list(FILE_TYPES)
    for name, row in FILE_TYPES.items():
        suffixes = ", ".join(f"`{suffix}`" for suffix in row.suffixes)
        assert f"| `{name}` | {suffixes} |" in text


def test_every_mark_of_reasoning_is_listed() -> None:
    listed = re.findall(r"^- `(.+)` … `(.+)`$", section("Reasoning in the text"), re.MULTILINE)
    assert listed == list(BLOCKS)


def test_every_export_format_is_listed() -> None:
    listed = first_cells(section("Export"))
    assert set(listed[: len(EXPORTERS)]) == set(EXPORTERS)
