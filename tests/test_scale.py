"""The tables of docs/explanation/appendix-scale.md match what its scripts count."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.builders import REPOSITORY

COUNTED = ("scale_requests", "scale_objects", "scale_store")
MEASURED = ("scale_etcd", "scale_gang")
PAGE = REPOSITORY / "docs/explanation/appendix-scale.md"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other by plain module names."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "bench"))


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize("name", COUNTED)
def test_the_page_shows_what_the_script_counts(name: str) -> None:
    script, scale = (importlib.import_module(each) for each in (name, "scale"))
    tables = script.tables()
    assert tables
    for title, rows in tables.items():
        assert scale.in_page(title) == scale.block(rows), f"python bench/{name}.py --write"


def test_every_table_of_the_page_has_its_script() -> None:
    named = set(re.findall(r"<!-- (scale_\w+) \w+ -->", PAGE.read_text()))
    assert named == {*COUNTED, *MEASURED}
    scripts = {path.stem for path in (REPOSITORY / "bench").glob("scale_*.py")}
    assert scripts == named
