"""The end of a store: requests in progress are finished, within a time that nothing can extend."""

from __future__ import annotations

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

_GRACEFUL_SHARE = 0.85
"""Part of `stop_seconds` in which requests are finished; then their connections are closed."""


class StoppingServer(uvicorn.Server):
    """uvicorn's server, which stops in at most `Limits.stop_seconds` after a signal."""

    def __init__(self, config: uvicorn.Config, limits: Limits, streams: Streams) -> None:
        """Create a server.

        Args:
            config: settings; this sets the time for requests in progress.
            limits: limits of the store.
            streams: streams of watched runs, which end before connections are waited for.
        """
        seconds = limits.stop_seconds * _GRACEFUL_SHARE
        config.timeout_graceful_shutdown = seconds  # type: ignore[assignment]  # given to wait_for
        super().__init__(config)
        self._limits, self._streams = limits, streams
        self._timer: threading.Timer | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; uvicorn calls this for a signal, and only if it runs in the main thread.

        Cancelled requests wait for their threads, which can wait for a database or a disk. A timer
        in a thread of its own ends the process if they wait too long.
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
        close = self.lifespan.shutdown

        async def close_all() -> None:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.end()
            await close()

        # uvicorn calls it after the wait for requests.
        self.lifespan.shutdown = close_all
        await super().shutdown(sockets)
