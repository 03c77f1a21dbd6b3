"""Connections to the store: how many there are, and what each may send before it is a request.

uvicorn speaks HTTP; this module bounds it. A request's head has a maximum size and a deadline. If
there are too many connections, the store closes one that is not in use, or one that waits for its
client, so that new clients are served. Only if all of them are at work, the new one gets 503.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_remote_addr

from tuneloop.settings.limits import Limits, advice
from tuneloop.store.budget import STALLED_SECONDS
from tuneloop.store.middleware.flow import CONNECTION

_PIECE_BYTES = 1 << 16
"""Bytes of a body that are parsed at once."""
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
_REASONS[503] = "Service Unavailable"

State = Literal["new", "idle", "waiting", "busy"]
"""A connection has not sent a request yet, or waits for the next one, or its request waits for the
client, or its request is at work."""


class _Group:
    """Connections by state, those that are in it the longest first."""

    def __init__(self) -> None:
        self._of: dict[State, dict[Connection, float]] = {
            "new": {},
            "idle": {},
            "waiting": {},
            "busy": {},
        }

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def move(self, one: Connection, old: State | None, new: State | None) -> None:
        if old is not None:
            self._of[old].pop(one, None)
        if new is not None:
            self._of[new][one] = time.monotonic()

    def expendable(self) -> Connection | None:
        """Return the connection whose loss matters least, or None if all are at work."""
        for state in ("new", "idle"):
            if one := next(iter(self._of[state]), None):
                return one
        one = next(iter(self._of["waiting"]), None)
        if one and time.monotonic() - self._of["waiting"][one] >= STALLED_SECONDS:
            return one
        return None


class Connections:
    """The open connections of one server."""

    def __init__(self, limits: Limits, trusted_proxies: tuple[str, ...] = ()) -> None:
        """Start without connections.

        Args:
            limits: limits of the store.
            trusted_proxies: addresses or networks whose connections come from many clients.
        """
        self.limits = limits
        self._maximum = limits.usable_connections()
        self._unlimited = [ipaddress.ip_network(each) for each in trusted_proxies]
        self._all = _Group()
        self._by_address: dict[str, _Group] = {}

    def __len__(self) -> int:
        """Count the open connections."""
        return len(self._all)

    def protocol(self) -> Callable[..., asyncio.Protocol]:
        """Return what uvicorn calls for each connection, as `Config(http=...)`."""
        return partial(Connection, self)

    def admit(self, one: Connection) -> str | None:
        """Count a new connection, and close another one if there are too many.

        Returns:
            None, or why there is no place for the connection.
        """
        address = self._by_address.setdefault(one.address, _Group())
        own_limit = self.limits.connections_per_address
        if len(address) >= own_limit and not self._is_proxy(one.address):
            full, field, count = address, "connections_per_address", own_limit
        elif len(self._all) >= self._maximum:
            full, field, count = self._all, "connections", self._maximum
        else:
            self.move(one, None, "new")
            return None
        expendable = full.expendable()
        if expendable is None:
            return f"The store has {count} connections at work; {advice(field)}"
        self.move(one, None, "new")
        expendable.end()
        return None

    def _is_proxy(self, address: str) -> bool:
        return any(ipaddress.ip_address(address) in network for network in self._unlimited)

    def move(self, one: Connection, old: State | None, new: State | None) -> None:
        """Record the new state of a connection; None is a closed one."""
        self._all.move(one, old, new)
        address = self._by_address.setdefault(one.address, _Group())
        address.move(one, old, new)
        if not len(address):
            del self._by_address[one.address]


class Connection(H11Protocol):
    """One connection, with bounds."""

    def __init__(self, among: Connections, config: Config, *args: Any, **keywords: Any) -> None:
        """Create the protocol of a new connection; uvicorn calls this."""
        super().__init__(config, *args, **keywords)
        self._among, self._limits = among, among.limits
        self._inner, self.app = self.app, self._run
        self._state: State | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection, or wait for the head of its first request."""
        self.transport = transport
        self.address = (get_remote_addr(transport) or ("", 0))[0]
        refusal = self._among.admit(self)
        if refusal is not None:
            self._refuse(503, refusal)
            return
        self._state = "new"
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the client, as many at once as the limits of a head allow."""
        while data and not self.transport.is_closing():
            in_head = self.conn.their_state is h11.IDLE
            size = self._limits.head_bytes if in_head else _PIECE_BYTES
            piece, data = data[:size], data[size:]
            if in_head and (refusal := self._objection(piece)):
                self._refuse(431, refusal)
                return
            super().data_received(piece)
            self._settle()

    def _objection(self, piece: bytes) -> str | None:
        """Return what is wrong with the size of a head, of which this is the newest piece."""
        known, _ = self.conn.trailing_data
        head = known + piece
        end = _END_OF_HEAD.search(head)
        length = len(head) if end is None else end.end()
        if length > self._limits.head_bytes:
            return (
                "The request line and the headers are longer than"
                f" {self._limits.head_bytes} bytes; {advice('head_bytes')}"
            )
        if head.count(b"\n", 0, length) > self._limits.head_lines + 1:
            return (
                f"The request has more than {self._limits.head_lines} headers;"
                f" {advice('head_lines')}"
            )
        return None

    def _settle(self) -> None:
        """Update the state and the deadline after the client has sent something."""
        if self.transport.is_closing() or self._state is None:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_nothing()
            if self._state in ("new", "idle"):
                self._move("busy")
            # A client may send its next request early, but not much of it.
            if self.conn.their_state is h11.DONE:
                ahead, _ = self.conn.trailing_data
                if len(ahead) > self._limits.head_bytes:
                    self.end()
        elif self._deadline is None:
            self._expect_head()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the end of a body that nobody needs."""
        super().on_response_complete()
        if self.transport.is_closing() or self._state is None:
            return
        if self.cycle.response_complete:
            self._move("idle")
            ahead, _ = self.conn.trailing_data
            if ahead or self.conn.their_state is not h11.IDLE:
                self._expect_head()

    def set_waiting(self, is_waiting: bool) -> None:
        """Record whether the request in progress waits for the client."""
        if self._state in ("busy", "waiting"):
            self._move("waiting" if is_waiting else "busy")

    def end(self) -> None:
        """Close the connection now and forget what was to be sent."""
        self._forget()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP; uvicorn calls this."""
        if self.cycle is not None and self.cycle.response_started:
            self.end()  # A second reply would be taken for a part of the first.
            return
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        too_long = f"A part of the request is too long; {advice('head_bytes')}"
        self._refuse(*((431, too_long) if status == 431 else (400, msg)))

    async def _run(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("extensions", {})[CONNECTION] = self
        try:
            await self._inner(scope, receive, send)
        finally:
            del scope["extensions"][CONNECTION]

    def _move(self, state: State) -> None:
        if state != self._state:
            self._among.move(self, self._state, state)
            self._state = state

    def _forget(self) -> None:
        self._await_nothing()
        if self._state is not None:
            self._among.move(self, self._state, None)
            self._state = None

    def _expect_head(self) -> None:
        self._await_nothing()
        self._deadline = self.loop.call_later(self._limits.head_seconds, self._head_is_late)

    def _await_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        if self._state == "new":
            self._refuse(
                408,
                f"The head of the request took longer than {self._limits.head_seconds:g} s;"
                f" {advice('head_seconds')}",
            )
        else:
            self.end()

    def _refuse(self, status: int, sentence: str) -> None:
        """Reply without the application, and close the connection."""
        body = json.dumps({"detail": sentence}).encode()
        headers = [
            f"HTTP/1.1 {status} {_REASONS[status]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(["Retry-After: 5"] if status == 503 else []),
        ]
        self.transport.write("\r\n".join([*headers, "", ""]).encode() + body)
        self._forget()
        self.transport.close()
