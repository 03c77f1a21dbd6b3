"""The limits of inputs and of a store."""

from __future__ import annotations

import pytest

from tuneloop.errors import UsageError
from tuneloop.settings.limits import Limits, input_limits


def test_limits_come_from_the_environment() -> None:
    read = Limits.from_environment
    assert read({}) == read({"TUNELOOP_LIMIT_FILTERS": " "}) == Limits()
    assert read({"TUNELOOP_LIMIT_FILTERS": "7\n", "OTHER": "x"}).filters == 7
    for wrong in ("0", "-1", "many", "1e99", "1.5", "9" * 5000):
        with pytest.raises(UsageError, match=r"^environment variable TUNELOOP_LIMIT_FILTERS is "):
            read({"TUNELOOP_LIMIT_FILTERS": wrong})


def test_limits_of_inputs_do_not_depend_on_those_of_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNELOOP_LIMIT_FILTERS", "none")
    monkeypatch.setenv("TUNELOOP_LIMIT_SPOOL_BYTES", "1000")
    assert input_limits().spool_bytes == 1000
    monkeypatch.setenv("TUNELOOP_LIMIT_SPOOL_BYTES", "1 GB")
    with pytest.raises(UsageError, match="TUNELOOP_LIMIT_SPOOL_BYTES is '1 GB', expected"):
        input_limits()


def test_the_reserve_of_files_lowers_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
    assert Limits().usable_connections() == 1024 - 256
    assert Limits(connections=10).usable_connections() == 10
    assert Limits(reserved_files=2000).usable_connections() == 8
