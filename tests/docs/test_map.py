"""The README's table "Where does X go?" names files, folders and tables that exist."""

from __future__ import annotations

import re

import pytest

from tests.builders import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
TABLE = README.partition("## Where does X go?")[2].partition("```")[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| a")]
TREE = README.partition("## Where does X go?")[2].partition("```\n")[2].partition("```")[0]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_true(row: str) -> None:
    folder = REPOSITORY
    named = re.findall(r"`([^`]+)`", row.split("|")[2])
    assert named or "nothing" in row
    for name in named:
        if re.fullmatch(r"[A-Z][A-Z_]+|Reason", name):
            continue
        if name.startswith(("make ", "execution")) or "<" in name:
            continue
        path = REPOSITORY / name if "/" in name else folder / name
        assert path.exists(), f"{row}: {name} does not exist"
        folder = path if path.is_dir() else path.parent
    for table, file in re.findall(r"`([A-Z][A-Z_]+)`(?: or `[A-Z_]+`)? in (?:its )?`([^`]+)`", row):
        path = next(p for p in (REPOSITORY / file, folder / file) if p.is_file())
        assert re.search(rf"^{table}\b", path.read_text(), re.MULTILINE), (
            f"{table} is not in {file}"
        )


def test_the_tree_is_true() -> None:
    rooms = re.findall(r"^  (\w+)/", TREE, re.MULTILINE)
    packages = {p.parent.name for p in (REPOSITORY / "lib" / "tuneloop").glob("*/__init__.py")}
    assert {*rooms, "cli"} == packages
    for name in re.findall(r"^(\w[\w/]*)/ ", TREE, re.MULTILINE):
        assert (REPOSITORY / name).is_dir(), name
