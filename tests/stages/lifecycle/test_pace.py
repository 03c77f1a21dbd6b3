from __future__ import annotations

import pytest

from tuneloop.stages.lifecycle.pace import Pace


def rate_of(reports: list[tuple[float, int]], now: float | None = None) -> float | None:
    pace = Pace()
    for at, step in reports:
        pace.report(step, at)
    return pace.rate(reports[-1][0] if now is None else now)


def test_compilation_does_not_count() -> None:
    """The first step takes five minutes, the others two seconds."""
    reports = [(0.0, 0), (300.0, 1), (302.0, 2), (304.0, 3), (306.0, 4)]
    assert [rate_of(reports[:count]) for count in range(1, 5)] == [None] * 4
    assert rate_of(reports) == pytest.approx(0.5)


def test_a_resumed_run_counts_its_own_steps() -> None:
    reports = [(300.0 + 2 * number, 1000 + number) for number in range(10)]
    assert rate_of(reports) == pytest.approx(0.5)


def test_the_rate_is_that_of_the_last_minute() -> None:
    slow = [(float(10 * number), number) for number in range(20)]
    fast = [(190.0 + number / 2, 19 + number) for number in range(1, 200)]
    assert rate_of(slow) == pytest.approx(0.1)
    assert rate_of(slow + fast) == pytest.approx(2.0)


def test_slow_steps_are_measured_over_a_longer_time() -> None:
    assert rate_of([(400.0 * number, number) for number in range(30)]) == pytest.approx(1 / 400)


def test_work_that_stands_still_has_no_rate() -> None:
    reports = [(float(number), number) for number in range(10)]
    assert rate_of(reports, now=15.0) == pytest.approx(1.0)
    assert rate_of(reports, now=30.0) is None
    assert rate_of([(float(number), 7) for number in range(10)]) is None
    assert rate_of([(5.0, number) for number in range(10)]) is None


def test_a_second_piece_of_work_starts_anew() -> None:
    """The evaluation counts the items of the tuned model from zero."""
    first = [(float(number), number) for number in range(10)]
    second = [(100.0, 0), (160.0, 1), (164.0, 2), (168.0, 3)]
    assert rate_of([*first, *second]) is None
    assert rate_of([*first, *second, (172.0, 4)]) == pytest.approx(0.25)
