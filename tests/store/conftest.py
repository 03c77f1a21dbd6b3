"""A store with limits of the test's choice, over a real socket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.store.sockets import Serve
from tests.store_fixtures import CATALOG, serving
from tuneloop.settings.limits import Limits
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database


@pytest.fixture
def serve(sqlite_file: Path, artifacts: Path) -> Iterator[Serve]:
    """Serve a store with these limits; returns its URL."""
    with contextlib.ExitStack() as running:

        def start(proxies: tuple[str, ...] = (), **limits: Any) -> str:
            database = Database(f"sqlite:///{sqlite_file}")
            app = create_app(database, str(artifacts), CATALOG, limits=Limits(**limits))
            return running.enter_context(serving(app, proxies))

        yield start
