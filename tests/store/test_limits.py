"""The settings of a store's limits."""

from __future__ import annotations

import pytest

from tuneloop.errors import SpecError
from tuneloop.store.limits import Limits


def test_limits_come_from_the_environment() -> None:
    read = Limits.from_environment
    assert read({}) == read({"TUNELOOP_LIMIT_FILTERS": " "}) == Limits()
    assert read({"TUNELOOP_LIMIT_FILTERS": "7", "OTHER": "x"}).filters == 7
    for wrong in ("0", "-1", "many", "1e99", "1.5"):
        with pytest.raises(SpecError, match="filters"):
            read({"TUNELOOP_LIMIT_FILTERS": wrong})
    with pytest.raises(SpecError, match=r"fil.*TUNELOOP_LIMIT_HEAD_BYTES"):
        read({"TUNELOOP_LIMIT_FIL": "7"})


def test_the_reserve_of_files_lowers_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
    assert Limits().usable_connections() == 1024 - 256
    assert Limits(connections=10).usable_connections() == 10
    assert Limits(reserved_files=2000).usable_connections() == 8
