"""The trace store with the parts of training and evaluation that it offers.

The store must not import either, so this module passes them in. `tuneloop serve`, the demo, the
tests and the benchmarks all start their stores here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from tuneloop.history.cost.prices import PriceList
from tuneloop.runs.examples.viewer import RunExamples
from tuneloop.store import server
from tuneloop.store.catalog import Catalog
from tuneloop.training.export.formats import EXPORT_FORMATS
from tuneloop.training.prompt_templates import RECIPES

CATALOG = Catalog(tuple(RECIPES), EXPORT_FORMATS, RunExamples())

build_app = partial(server.build_app, CATALOG)
running = partial(server.running, CATALOG)


def serve(*args: Any, prices: PriceList | None = None, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM; see `tuneloop.store.server.serve`.

    Args:
        args: host, port and other arguments.
        prices: prices of accelerators for pages of runs.
        options: arguments by name.
    """
    server.serve(replace(CATALOG, prices=prices), *args, **options)
