"""Run the trace store, either until a signal (`serve`) or while a block runs (`running`).

The caller passes the recipes and export formats; `tuneloop.runs.store_app` has those of training.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tuneloop.errors import SpecError, Unavailable

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from tuneloop.settings.limits import Limits
    from tuneloop.store.catalog import Catalog
    from tuneloop.store.middleware.auth import Token

LOOPBACK = "127.0.0.1"
START_SECONDS = 20.0


def build_app(
    catalog: Catalog,
    database_url: str,
    artifacts: str,
    tokens: tuple[Token, ...] = (),
    cors_origins: Sequence[str] = (),
    limits: Limits | None = None,
) -> FastAPI:
    """Open and migrate the database, and create the store's ASGI application on it.

    Without limits, those of the environment count.
    """
    from tuneloop.settings.limits import Limits
    from tuneloop.store.app import create_app
    from tuneloop.store.db.database import Database

    # They are read before the database is opened, which a wrong variable should not touch.
    limits = limits or Limits.from_environment()

    return create_app(
        Database(database_url),
        artifacts,
        catalog,
        tokens=tokens,
        cors_origins=cors_origins,
        loopback_only=not tokens,
        limits=limits,
    )


def uvicorn_server(
    app: FastAPI, log_level: str = "warning", trusted_proxies: Sequence[str] = ()
) -> uvicorn.Server:
    """Create the HTTP server of an application, with the limits of the application's store.

    Args:
        app: the application.
        log_level: level of uvicorn's log.
        trusted_proxies: addresses or networks of proxies. The store believes what they say about
            the address of their clients, in X-Forwarded-For.
    """
    import uvicorn

    from tuneloop.store.connections import Connections
    from tuneloop.store.stopping import StoppingServer

    limits = app.state.service.limits
    config = uvicorn.Config(
        app,
        http=Connections(limits, tuple(trusted_proxies)).protocol(),  # type: ignore[arg-type]
        ws="none",
        log_level=log_level,
        access_log=False,
        use_colors=False,
        # Without a proxy that is named, any client could choose the address it is known by.
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        h11_max_incomplete_event_size=limits.head_bytes,
    )
    return StoppingServer(config, limits, app.state.service.streams)


def serve(
    catalog: Catalog,
    host: str,
    port: int,
    database_url: str,
    artifacts: str,
    tokens: tuple[Token, ...] = (),
    listening: Callable[[str, str], None] = lambda url, database: None,
    cors_origins: Sequence[str] = (),
    access_log: bool = True,
    trusted_proxies: Sequence[str] = (),
) -> None:
    """Serve until SIGINT or SIGTERM; then requests in progress have `Limits.stop_seconds`.

    Args:
        catalog: recipes and export formats that the store offers.
        host: address to listen on; anything but a loopback address requires tokens.
        port: port to listen on; 0 picks a free one.
        database_url: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`.
        artifacts: URL of the prefix under which datasets are written.
        tokens: accepted access tokens; empty accepts every user of this machine.
        listening: called once the store accepts connections, with its URL and the database URL
            without the password.
        cors_origins: origins whose web pages may use the store from a browser.
        access_log: write one line of JSON per request to stderr.
        trusted_proxies: addresses or networks of proxies that tell the addresses of their clients.

    Raises:
        SpecError: the host is not loopback and there are no tokens, or an origin, a proxy or a
            limit is malformed.
        Unavailable: another process uses the port.
    """
    from tuneloop.store.db.engine import parse_url, place_of
    from tuneloop.store.memory import return_freed_memory
    from tuneloop.store.middleware.cors import check_origins

    if host not in (LOOPBACK, "localhost", "::1") and not tokens:
        raise SpecError(
            f"--host {host}: anyone who can reach this address could read and write, expected"
            " --tokens for an address other than loopback; create a token with"
            " `tuneloop tokens new`"
        )
    check_origins(cors_origins, has_tokens=bool(tokens))
    _check_proxies(trusted_proxies)
    place = place_of(parse_url(database_url))
    return_freed_memory()
    app = build_app(catalog, database_url, artifacts, tokens, cors_origins)
    server = uvicorn_server(app, trusted_proxies=trusted_proxies)
    listener = _listen(host, port)
    listener.listen()
    listening(_url_of(listener), place)
    with _access_lines() if access_log else contextlib.nullcontext():
        server.run(sockets=[listener])


def _check_proxies(proxies: Sequence[str]) -> None:
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError as e:
            raise SpecError(
                f"--trusted-proxy {proxy}: expected an IP address or a network such as"
                " 10.0.0.0/8; fix the option"
            ) from e


@contextlib.contextmanager
def _access_lines() -> Iterator[None]:
    """Write the access log to stderr, one line of JSON per request, while the block runs."""
    handler = logging.StreamHandler()  # Without a formatter, it writes the message only.
    logger = logging.getLogger("tuneloop.access")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logger.removeHandler(handler)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as e:
        listener.close()
        raise Unavailable(
            f"{host}:{port}: cannot listen: {e.strerror}; stop the process that uses the port, or"
            " choose another --port"
        ) from e
    return listener


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def running(
    catalog: Catalog, database_url: str, artifacts: str, tokens: tuple[Token, ...] = ()
) -> Iterator[str]:
    """Serve on a free loopback port while the block runs; yields the store's URL."""
    listener = _listen(LOOPBACK, 0)
    server = uvicorn_server(build_app(catalog, database_url, artifacts, tokens))
    thread = threading.Thread(target=server.run, args=([listener],), name="store", daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise Unavailable(
                    "trace store: it did not start; see its log messages above for the reason"
                )
            time.sleep(0.01)
        yield _url_of(listener)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
