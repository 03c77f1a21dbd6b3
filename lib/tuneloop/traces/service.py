"""What every endpoint works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Request

from tuneloop.datasets.schema import DatasetManifest, TraceRow
from tuneloop.traces.database import Database

Render = Callable[[TraceRow, DatasetManifest], dict[str, Any]]


@dataclass(frozen=True)
class Service:
    """What the endpoints work with."""

    database: Database
    artifacts: str
    recipes: tuple[str, ...]
    export_formats: Mapping[str, Render]
    clock: Callable[[], datetime]
    new_seed: Callable[[], int]


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Svc = Annotated[Service, Depends(_service)]
