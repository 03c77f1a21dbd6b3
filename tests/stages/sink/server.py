"""MLflow's own tracking server on loopback, with faults that a test switches on.

The client's package holds the server's code too; the tests' environment has the packages that the
server needs.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from tuneloop.stages.sink.mlflow_run import SETTINGS

Application = Callable[..., Iterable[bytes]]
Fault = Callable[[dict[str, Any], Application, Any], Iterable[bytes]]


class Quiet(WSGIRequestHandler):
    """Writes no line per request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class Tracking:
    """The server: its address, the requests that reached it, and the fault in front of it."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self.fault: Fault | None = None
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        self.requests.append(environ["PATH_INFO"])
        self.headers.append({k: v for k, v in environ.items() if k.startswith("HTTP_")})
        if self.fault is not None:
            return self.fault(environ, self._app, start)
        return self._app(environ, start)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def broken(environ: dict[str, Any], app: Application, start: Any) -> Iterable[bytes]:
    start("500 Internal Server Error", [("Content-Type", "text/html")])
    return [b"<html><body>\n<h1>It is br\xc3\xb6ken</h1></body></html>" * 100]


def stored_but_unanswered(environ: dict[str, Any], app: Application, start: Any) -> Iterable[bytes]:
    """The server stores the values, and a proxy in front of it answers 502."""
    if environ["PATH_INFO"].endswith("/log-batch"):
        b"".join(app(environ, lambda *_: None))
        start("502 Bad Gateway", [])
        return [b""]
    return app(environ, start)


def slow(environ: dict[str, Any], app: Application, start: Any) -> Iterable[bytes]:
    time.sleep(5)
    return app(environ, start)


@contextlib.contextmanager
def tracking_server(folder: Path) -> Iterator[Tracking]:
    """Start a server with a database of its own."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in SETTINGS.items():
            patched.setenv(name, value)
        patched.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{folder}/mlflow.db")
        patched.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(folder / "files"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's server uses what Starlette has deprecated
            from mlflow.server import app, handlers
        # MLflow's own sign-in, which needs Flask-WTF; each search tries to import it.
        patched.setitem(sys.modules, "mlflow.server.auth", cast(Any, None))
        # Otherwise the first request creates the tables, which can take longer than its time-out.
        handlers._get_tracking_store()
        server = Tracking(app)
        try:
            yield server
        finally:
            server.close()
