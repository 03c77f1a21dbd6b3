"""The end of a store: requests in progress are finished, within a time that nothing can extend."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn

from tuneloop.settings.limits import Limits, advice
from tuneloop.store.connections import Connection
from tuneloop.store.streams import Streams

_FINISH_SHARE = 0.75
"""Part of `stop_seconds` in which requests are finished; then their connections are closed."""


class StoppingServer(uvicorn.Server):
    """uvicorn's server, which stops in at most `Limits.stop_seconds` after a signal."""

    def __init__(self, config: uvicorn.Config, limits: Limits, streams: Streams) -> None:
        """Create a server.

        Args:
            config: settings; uvicorn must not cancel requests after a time, which would only log
                a traceback while their threads go on.
            limits: limits of the store.
            streams: streams of watched runs, which end before connections are waited for.
        """
        super().__init__(config)
        self._limits, self._streams = limits, streams
        self._timer: threading.Timer | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; uvicorn calls this for a signal, and only if it runs in the main thread.

        A request can wait for a database or a disk in a thread that nothing can cancel. A timer in
        a thread of its own ends the process if it waits too long.
        """
        super().handle_exit(sig, frame)
        if self._timer is None:
            self._timer = threading.Timer(self._limits.stop_seconds, self._give_up, (sig,))
            self._timer.daemon = True
            self._timer.start()

    def _give_up(self, sig: int) -> None:
        name = signal.Signals(sig).name
        sys.stderr.write(
            f"trace store: work was in progress {self._limits.stop_seconds:g} s after {name}, so"
            " the process ends without it; what was not acknowledged is not stored;"
            f" {advice('stop_seconds')}\n"
        )
        sys.stderr.flush()
        # The threads cannot be ended in another way. Open transactions are rolled back.
        os._exit(128 + sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams, finish requests, and close the connections of those that take too long."""
        self._streams.close()
        seconds = self._limits.stop_seconds * _FINISH_SHARE
        asyncio.get_running_loop().call_later(seconds, self._close_connections)
        await super().shutdown(sockets)

    def _close_connections(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.end()
