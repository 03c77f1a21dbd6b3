from __future__ import annotations

from pathlib import Path

import pytest

from tuneloop.artifacts.stage_logs.own import (
    attempt_in,
    keep_earlier_log,
    missing_lines,
    read_own_log,
    started_line,
)
from tuneloop.storage import files

FIRST, SECOND = "20261128T101500-0a1b2c", "20261128T101600-ffffff"


def log_of(attempt: str, *texts: str) -> bytes:
    started = f"2026-11-28 10:15:00,000 INFO {started_line('train', 'r-1', None, attempt)}"
    return "\n".join([started, *texts, ""]).encode()


def beat(attempt: str) -> bytes:
    return b'{"attempt": "%s", "updated_at": "2026-11-28T10:15:00+00:00"}' % attempt.encode()


@pytest.mark.parametrize("shard", [None, "00003-of-00016"])
def test_a_log_names_its_attempt(shard: str | None) -> None:
    line = started_line("export", "a-run-12345678", shard, FIRST).encode()
    assert attempt_in([b"", b"\xff", b"2026-11-28 10:15:00,000 INFO " + line]) == FIRST
    assert attempt_in([b"attempt 3 of 5"]) is None


def test_the_log_of_an_earlier_attempt_is_kept(tmp_path: Path) -> None:
    prefix, log, progress = (f"{tmp_path}{name}" for name in ("", "/log.txt", "/progress.json"))
    keep_earlier_log(prefix, log, progress, FIRST)  # there is none
    files.write(log, log_of(FIRST, "naïve 🙂"))
    files.write(progress, beat(FIRST))
    keep_earlier_log(prefix, log, progress, FIRST)  # it is this attempt's
    assert files.list_folders(prefix) == []
    keep_earlier_log(prefix, log, progress, SECOND)
    files.write(log, log_of(SECOND))
    assert read_own_log(prefix, FIRST) == log_of(FIRST, "naïve 🙂").splitlines()
    assert read_own_log(prefix, SECOND) == log_of(SECOND).splitlines()
    assert read_own_log(prefix, "20261128T101700-000000") == []
    files.write(progress, b"{torn")
    keep_earlier_log(prefix, log, progress, "20261128T101700-000000")


OWN = [b"a", b"b", b"c", b"d", b"e"]


@pytest.mark.parametrize(
    ("seen", "following", "missing"),
    [
        ([b"a", b"b"], [], [b"c", b"d", b"e"]),
        ([b"a", b"b", b"from a C++ library"], [], [b"c", b"d", b"e"]),
        ([b"a"], [b"from a C++ library", b"d"], [b"b", b"c"]),
        ([b"a"], [b"b"], []),
        ([b"a", b"e"], [], []),
        ([b"nothing known"], [], []),
        ([b"b"], [b"nothing known"], []),  # it may have been read
        ([b"d"], [b"a"], []),
    ],
)
def test_what_is_missing(seen: list[bytes], following: list[bytes], missing: list[bytes]) -> None:
    assert missing_lines(OWN, seen, following) == missing
    assert missing_lines([], seen, following) == []
