"""The trace store's web application: routes, middleware, and replies to expected failures.

No request causes a 5xx, and no request makes another client wait: bodies are limited while they
arrive, work runs in threads, exports stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from tuneloop.datasets.build import DatasetConflict, DatasetEmpty
from tuneloop.errors import DataError, PermissionDenied, Transient, TuneloopError
from tuneloop.settings.limits import Limits
from tuneloop.store.catalog import Catalog
from tuneloop.store.db.database import Database
from tuneloop.store.db.idempotency import IdempotencyConflict
from tuneloop.store.db.locked import UnknownTraces
from tuneloop.store.dependencies import Damaged, Service, Svc
from tuneloop.store.middleware import cors
from tuneloop.store.middleware.access_log import Observer
from tuneloop.store.middleware.auth import Authorization, Token
from tuneloop.store.middleware.flow import Flow
from tuneloop.store.middleware.head import HeadAsGet
from tuneloop.store.middleware.loopback import LoopbackOnly
from tuneloop.store.middleware.same_origin import SameOriginForms
from tuneloop.store.routes import (
    agreement,
    bounds,
    builds,
    datasets,
    examples,
    labels,
    openapi,
    request_parsing,
    scores,
    trace_export,
    traces,
)
from tuneloop.store.routes.refusals import ANY, GUARDED
from tuneloop.store.web import api_page, pages, render

log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_seed() -> int:
    return secrets.randbelow(2**32)


def create_app(
    database: Database,
    artifacts_url: str,
    catalog: Catalog,
    *,
    tokens: tuple[Token, ...] = (),
    cors_origins: Sequence[str] = (),
    loopback_only: bool = False,
    limits: Limits | None = None,
    clock: Callable[[], datetime] = _utc_now,
    new_seed: Callable[[], int] = _new_seed,
) -> FastAPI:
    """Create the application.

    Args:
        database: the database of traces; closed when the application ends.
        artifacts_url: URL of the prefix that contains datasets/.
        catalog: recipes and export formats that builds and exports may name.
        tokens: accepted access tokens; empty accepts every request that reaches the store.
        cors_origins: origins whose web pages may use the store.
        loopback_only: refuse requests from pages of other origins; for a store without tokens.
        limits: what clients may use; the defaults if None.
        clock: gives the time of new traces and datasets.
        new_seed: draws the seed of a build request without one.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        database.close()

    app = FastAPI(
        title="tuneloop trace store",
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(bounds.check_query)],
        # A redirect would name the host that the client sent.
        redirect_slashes=False,
        docs_url=None,  # web/api_page.py
        redoc_url=None,
    )
    app.state.service = Service(
        database, artifacts_url.rstrip("/"), catalog, clock, new_seed, limits or Limits()
    )
    # The middleware that is added last is the outermost, so it sees every request.
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        Flow,
        budget=app.state.service.budget,
        limits=app.state.service.limits,
        body_bytes=request_parsing.BODY_BYTES,
    )
    app.add_middleware(SameOriginForms)
    if tokens:
        app.add_middleware(Authorization, tokens=tokens)
    elif loopback_only:
        app.add_middleware(LoopbackOnly, origins=cors_origins)
    if cors_origins:
        cors.install(app, cors_origins)
    app.add_middleware(Observer, metrics=app.state.service.metrics)
    for each in (*ROUTERS, pages.router, api_page.router):
        app.include_router(each)
    openapi.install(app, catalog, guarded=bool(tokens))
    request_parsing.install_handlers(app)
    app.add_exception_handler(TuneloopError, _reply_expected_failure)
    render.install_handlers(app)
    return app


class Health(BaseModel):
    """Reply to a liveness probe."""

    status: Literal["healthy"] = "healthy"


class Readiness(BaseModel):
    """Reply to a readiness probe."""

    status: Literal["ready", "not ready"]
    database: Literal["ok", "unavailable"]
    artifacts: Literal["ok", "unavailable"]


probes = APIRouter(responses=ANY)
metrics_router = APIRouter(responses=GUARDED)
ROUTERS = (
    probes,
    metrics_router,
    trace_export.router,  # before the path of a trace by its id
    traces.router,
    labels.router,
    agreement.router,
    scores.router,
    builds.router,
    datasets.router,
)
"""Routers of the OpenAPI document."""


@probes.get("/api/health")
async def health() -> Health:
    """Liveness: the process answers. Needs no thread, database or storage."""
    return Health()


@probes.get("/healthz")
async def healthz() -> Health:
    """Liveness probe: the process answers."""
    return Health()


_NOT_READY = {"status": "not ready", "database": "unavailable", "artifacts": "ok"}


@probes.get(
    "/readyz",
    response_model=Readiness,
    responses={
        503: {
            "model": Readiness,
            "description": "The store cannot work now",
            "content": {"application/json": {"example": _NOT_READY}},
        }
    },
)
async def readyz(service: Svc) -> JSONResponse:
    """Readiness probe: database and artifact store answer, and can be written."""
    failures = await asyncio.gather(*(check.failure() for check in service.checks.values()))
    found = {}
    for name, failure in zip(service.checks, failures, strict=True):
        if failure is not None:
            # The message goes to the log only, because it can contain paths of the server.
            log.error("not ready: %s: %s", name, failure)
        found[name] = "unavailable" if failure else "ok"
    ready = set(found.values()) == {"ok"}
    return JSONResponse(
        {"status": "ready" if ready else "not ready", **found}, status_code=200 if ready else 503
    )


_TEXT = {"schema": {"type": "string"}}


@metrics_router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "content": {
                "text/plain": {**_TEXT, "example": examples.METRIC},
                "application/openmetrics-text": {**_TEXT, "example": f"{examples.METRIC}# EOF\n"},
            }
        }
    },
)
async def metrics(request: Request, service: Svc) -> Response:
    """Metrics for Prometheus, in the text format of the Accept header."""
    content, media_type = service.metrics.render(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": media_type})


_STATUS: tuple[tuple[type[TuneloopError], Literal[404, 409, 422, 500]], ...] = (
    (IdempotencyConflict, 409),
    (UnknownTraces, 404),
    (DatasetConflict, 409),
    (DatasetEmpty, 422),
    (DataError, 500),  # A stored file is damaged.
)
_SHOWN = (IdempotencyConflict, UnknownTraces, DatasetConflict, DatasetEmpty, Damaged)
"""Errors whose messages are sent to clients; messages of other errors can contain paths."""
_SENTENCES: tuple[tuple[type[TuneloopError], str], ...] = (
    (DataError, "The store's data is damaged; see the store's log for details"),
    (
        PermissionDenied,
        "The store lacks permission for its database or artifacts; see the store's log for details",
    ),
    (Transient, "The store is busy; try again later"),
    (
        TuneloopError,
        "The store cannot use its database or artifacts; see the store's log for details",
    ),
)


def _whole(error: Exception) -> Exception:
    """Return the error to log, which is the cause if the error's message was made for clients."""
    return error.__cause__ if isinstance(error.__cause__, TuneloopError) else error


async def _reply_expected_failure(request: Request, error: Exception) -> JSONResponse:
    """Reply with a message without the server's paths; the log gets the full message."""
    status: int = next((code for kind, code in _STATUS if isinstance(error, kind)), 503)
    headers = {"Retry-After": "5"} if status == 503 else None
    if status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, _whole(error))
    sentences = (sentence for kind, sentence in _SENTENCES if isinstance(error, kind))
    detail = str(error) if isinstance(error, _SHOWN) else next(sentences)
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)
