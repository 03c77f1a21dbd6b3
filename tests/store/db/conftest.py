"""Fixtures for the tests of the database."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest


@pytest.fixture
def now() -> datetime:
    """The time of the first stored trace."""
    return datetime(2026, 11, 22, 11, 22, 10, 546379, tzinfo=UTC)
