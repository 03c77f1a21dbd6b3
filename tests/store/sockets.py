"""Connections to a store without an HTTP client, which would not misbehave."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

Serve = Callable[..., str]
REPLY_SECONDS = 10.0


def opened(url: str) -> socket.socket:
    host, port = urlsplit(url).hostname, urlsplit(url).port
    return socket.create_connection((str(host), port or 0), timeout=REPLY_SECONDS)


def read_all(connection: socket.socket) -> bytes:
    """Read until the store closes the connection."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while block := connection.recv(1 << 16):
            data += block
    return data
