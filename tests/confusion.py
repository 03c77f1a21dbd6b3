"""Print, after the tests, how often each state of the diagnosis was expected and found."""

from __future__ import annotations

from collections import Counter

import pytest

PROPERTY = "diagnosed"
"""Property of a test: the expected state and the one that was found."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the confusion table of the tests that recorded the property."""
    pairs: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if isinstance(report, pytest.TestReport) and report.when == "call":
                for name, value in report.user_properties:
                    if name == PROPERTY and isinstance(value, list):
                        pairs[value[0], value[1]] += 1
    if not pairs:
        return
    terminalreporter.section("states of recorded clusters: expected, found, recordings")
    for (expected, found), count in sorted(pairs.items()):
        wrong = "" if expected == found else "  <- wrong"
        terminalreporter.write_line(f"{expected:<18} {found:<18} {count:>3}{wrong}")
    right = sum(count for (expected, found), count in pairs.items() if expected == found)
    terminalreporter.write_line(f"{right} of {pairs.total()} states are right")
