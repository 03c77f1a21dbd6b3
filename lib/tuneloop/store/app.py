"""The trace store over HTTP, with the paths, codes and texts that its clients know.

One rule: nothing that a client sends makes a 5xx, and nothing that one client asks for makes
another one wait: bodies are limited while they arrive, work runs in threads, exports stream.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tuneloop.datasets.build import DatasetConflict, DatasetEmpty
from tuneloop.errors import DataError, PermissionDenied, Transient, TuneloopError
from tuneloop.storage import files, paths
from tuneloop.store.db.database import Database, IdempotencyConflict
from tuneloop.store.dependencies import Damaged, Render, Service, Svc
from tuneloop.store.middleware import cors
from tuneloop.store.middleware.access_log import Observer
from tuneloop.store.middleware.auth import Authorization, Token
from tuneloop.store.middleware.loopback import LoopbackOnly
from tuneloop.store.routes import datasets, openapi, request_parsing, traces
from tuneloop.store.web import pages, render

log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_seed() -> int:
    return secrets.randbelow(2**32)


def create_app(
    database: Database,
    artifacts_url: str,
    recipes: Collection[str],
    export_formats: Mapping[str, Render],
    *,
    tokens: tuple[Token, ...] = (),
    cors_origins: Sequence[str] = (),
    loopback_only: bool = False,
    clock: Callable[[], datetime] = _utc_now,
    new_seed: Callable[[], int] = _new_seed,
) -> FastAPI:
    """Make the application.

    Args:
        database: where traces are.
        artifacts_url: prefix that holds datasets/.
        recipes: names that a build may ask for.
        export_formats: what `?format=` may name, and how each makes a record of a row.
        tokens: who may use it; none: everybody who can reach it.
        cors_origins: pages of which a browser lets in.
        loopback_only: refuse what pages of other origins send; for a store without tokens.
        clock: tells the time of new traces and datasets.
        new_seed: draws the seed of a build that names none.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        database.close()

    app = FastAPI(title="tuneloop trace store", lifespan=lifespan)
    app.state.service = Service(
        database, artifacts_url.rstrip("/"), tuple(recipes), dict(export_formats), clock, new_seed
    )
    if tokens:
        app.add_middleware(Authorization, tokens=tokens)
    elif loopback_only:
        app.add_middleware(LoopbackOnly, origins=cors_origins)
    if cors_origins:
        cors.install(app, cors_origins)
    app.add_middleware(Observer, metrics=app.state.service.metrics)  # the last is the outermost
    for each in (router, probes, traces.router, datasets.router):
        app.include_router(each)
    app.include_router(pages.router)
    openapi.install(app, guarded=bool(tokens), formats=export_formats, recipes=recipes)
    request_parsing.install_handlers(app)
    app.add_exception_handler(TuneloopError, _reply_expected_failure)
    render.install_handlers(app)
    return app


router = APIRouter(prefix="/api")
probes = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the process answers; touches nothing else, and takes no thread."""
    return {"status": "healthy"}


@probes.get("/healthz", response_model=dict[str, str])
async def healthz() -> dict[str, str]:
    """For a liveness probe: whether the process answers."""
    return {"status": "healthy"}


@probes.get("/readyz", responses={503: {"description": "It cannot work now"}})
def readyz(service: Svc) -> JSONResponse:
    """For a readiness probe: whether database and artifact store answer."""
    checks: dict[str, Callable[[], object]] = {
        "database": service.database.ping,
        "artifacts": lambda: files.exists(paths.join(service.artifacts, "datasets")),
    }
    found = {}
    for name, check in checks.items():
        try:
            check()
            found[name] = "ok"
        except TuneloopError as e:
            log.error("not ready: %s: %s", name, e)  # the reply must not hold the server's paths
            found[name] = "unavailable"
    ready = set(found.values()) == {"ok"}
    return JSONResponse(
        {"status": "ready" if ready else "not ready", **found}, status_code=200 if ready else 503
    )


@probes.get("/metrics")
async def metrics(request: Request, service: Svc) -> Response:
    """For Prometheus, in the text format that it asks for."""
    content, media_type = service.metrics.render(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": media_type})


_STATUS: tuple[tuple[type[TuneloopError], Literal[409, 422, 500]], ...] = (
    (IdempotencyConflict, 409),
    (DatasetConflict, 409),
    (DatasetEmpty, 422),
    (DataError, 500),  # what the store itself keeps is damaged
)
_SHOWN = (IdempotencyConflict, DatasetConflict, DatasetEmpty, Damaged)
"""Made of what clients know. Of others the message names files, and is for the log alone."""
_SENTENCES: tuple[tuple[type[TuneloopError], str], ...] = (
    (DataError, "What the store keeps is damaged; its log says what and where"),
    (PermissionDenied, "The store may not use its database or artifacts; its log says which"),
    (Transient, "The store is busy; try again later"),
    (TuneloopError, "The store cannot use its database or artifacts; its log says why"),
)


def _whole(error: Exception) -> Exception:
    """What the log gets: of a sentence made for clients the one that it was made of."""
    return error.__cause__ if isinstance(error.__cause__, TuneloopError) else error


async def _reply_expected_failure(request: Request, error: Exception) -> JSONResponse:
    """A sentence without the server's paths; the log has the whole one."""
    status: int = next((code for kind, code in _STATUS if isinstance(error, kind)), 503)
    headers = {"Retry-After": "5"} if status == 503 else None
    if status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, _whole(error))
    said = (sentence for kind, sentence in _SENTENCES if isinstance(error, kind))
    detail = str(error) if isinstance(error, _SHOWN) else next(said)
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)
