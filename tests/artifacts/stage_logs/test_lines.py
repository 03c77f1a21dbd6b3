from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.artifacts.stage_logs.lines import (
    NANOSECONDS,
    Line,
    Window,
    dump_lines,
    iter_text_lines,
    parse_lines,
    rfc3339,
)

START = 1_795_000_000 * NANOSECONDS
"""2026-11-18T11:06:40Z."""


def at(seconds: float, text: bytes = b"x") -> Line:
    return Line(START + round(seconds * NANOSECONDS), text)


@pytest.mark.parametrize(
    "stamp",
    [
        "2026-11-18T11:06:40.000000005Z",
        "2026-11-18T13:06:40.000000005+02:00",  # a node that logs in local time
        "2026-11-18T05:36:40.000000005-05:30",
    ],
)
def test_zones_are_the_same_time(stamp: str) -> None:
    (line,) = parse_lines(f"{stamp} hello\n".encode(), keep_unterminated=False)
    assert line == Line(START + 5, b"hello")
    assert rfc3339(line.stamp) == "2026-11-18T11:06:40.000000005Z"


def test_digits_of_a_second_may_be_left_out() -> None:
    data = b"2026-11-18T11:06:40.5Z a\n2026-11-18T11:06:40.45Z b\n2026-11-18T11:06:41Z c\n"
    assert [line.stamp - START for line in parse_lines(data, keep_unterminated=False)] == [
        500_000_000,
        450_000_000,
        1_000_000_000,
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" leading and trailing ",
        "naïve 🙂 日本語".encode(),
        b"\xff\xfe not UTF-8 \x00",
        b" 10%\r 20%\r 30%",
        b"2026-11-18T11:06:40Z looks like a timestamp",
        b"x" * 1_000_000,
    ],
    ids=["empty", "spaces", "unicode", "bytes", "progress", "stamp", "huge"],
)
def test_any_text_survives_the_archive(text: bytes) -> None:
    lines = [at(0, text), at(1, b"next")]
    assert parse_lines(dump_lines(lines), keep_unterminated=False) == lines


@given(
    st.lists(st.tuples(st.integers(0, 10**19), st.binary().map(lambda b: b.replace(b"\n", b""))))
)
def test_lines_are_read_as_they_were_written(pairs: list[tuple[int, bytes]]) -> None:
    lines = [Line(*pair) for pair in pairs]
    assert parse_lines(dump_lines(lines), keep_unterminated=True) == lines


def test_an_unterminated_line_is_complete_only_at_the_end() -> None:
    data = dump_lines([at(0, b"a"), at(1, b"b")])[:-1]
    assert [x.text for x in parse_lines(data, keep_unterminated=False)] == [b"a"]
    assert [x.text for x in parse_lines(data, keep_unterminated=True)] == [b"a", b"b"]


def test_what_has_no_timestamp() -> None:
    """A kubelet's own message, or the rest of a line that began before, is no line of the log."""
    gone = b"unable to retrieve container logs for containerd://0123\n"
    assert parse_lines(gone, keep_unterminated=True) == []
    data = b"rest of a long line\n" + dump_lines([at(0, b"a")]) + b"2026-13-99T99:99:99Z b\n"
    assert [x.text for x in parse_lines(data, keep_unterminated=True)][:1] == [b"a"]


def test_a_window_knows_lines_by_time_text_and_occurrence() -> None:
    window = Window()
    assert window.since is None
    assert window.add([at(0), at(0), at(0, b"y")]) == [at(0), at(0), at(0, b"y")]
    assert window.add([at(0), at(0), at(0, b"y"), at(0)]) == [at(0)]
    assert window.add([at(0), at(0)]) == []  # a response that was cut off
    assert window.add([at(0), at(0), at(0, b"y"), at(0), at(0.5)]) == [at(0.5)]


def test_lines_out_of_order_are_found_within_the_overlap() -> None:
    window = Window()
    window.add([at(10.0), at(10.2)])
    assert window.since == START // NANOSECONDS + 8
    assert window.add([at(10.0), at(10.2), at(9.9, b"stderr")]) == [at(9.9, b"stderr")]


def test_a_window_forgets_what_is_not_read_again() -> None:
    window = Window()
    for second in range(100):
        window.add([at(second + i / 10, b"%d" % i) for i in range(10)])
    assert len(window._seen) <= 40


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 40)))
def test_overlapping_reads_give_every_line_once(steps: list[int], cuts: list[int]) -> None:
    """Each read returns a prefix of the lines since the window's second, as a kubelet does."""
    stamps, stamp = [], 0
    for step in steps:
        stamp += step * NANOSECONDS // 4
        stamps.append(stamp)
    log = [Line(START + stamp, b"same") for stamp in stamps]
    window, found = Window(), list[Line]()
    for cut in [*cuts, len(log)]:
        since = window.since
        rest = [line for line in log if since is None or line.stamp >= since * NANOSECONDS]
        found += window.add(rest[:cut])
    assert found == log


def test_lines_of_a_local_process_have_the_time_that_they_begin_with() -> None:
    data = b"first\n2026-11-18 11:06:40,250 INFO x\nTraceback\n2026-99-18 11:06:40,250 y\n"
    lines = list(iter_text_lines(data, 7))
    assert [line.text for line in lines] == data.split(b"\n")[:-1]
    assert lines[0].stamp == 7
    assert lines[1].stamp % NANOSECONDS == 250_000_000
    assert lines[1].stamp == lines[2].stamp == lines[3].stamp
