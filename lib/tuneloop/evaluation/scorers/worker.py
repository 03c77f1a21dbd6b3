"""A process that runs one function on many inputs, and is killed when an input takes too long."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

START_SECONDS = 120.0
"""Longest time for the process to start and import what the function needs."""


class TooLong(Exception):
    """An input took longer than its time; the process was killed."""


class Crashed(Exception):
    """The process ended while it worked on an input, for example because memory ran out."""


class Worker:
    """One process for one function; it starts with the first call, and again after a kill."""

    def __init__(self, prepare: Callable[[], Callable[[Any], Any]], memory_bytes: int) -> None:
        """Describe the process.

        Args:
            prepare: function of a module, called once in the process; it returns the function that
                is called for each input.
            memory_bytes: address space that the process may use.
        """
        self._prepare, self._memory_bytes = prepare, memory_bytes
        self._lock = threading.Lock()
        self._process: Any = None
        self._connection: Connection | None = None

    def call(self, value: Any, timeout_seconds: float) -> Any:
        """Call the function in the process.

        Raises:
            TooLong: the call took longer than `timeout_seconds`.
            Crashed: the process ended.
        """
        with self._lock:
            connection = self._connection or self._start()
            try:
                connection.send(value)
                if connection.poll(timeout_seconds):
                    return connection.recv()
            except (EOFError, OSError) as error:
                self.close()
                raise Crashed(str(error)) from error
            self.close()
            raise TooLong(f"no result within {timeout_seconds:g} s")

    def close(self) -> None:
        """Kill the process, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        # The caller may have threads of JAX, so the process is started anew instead of forked.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._prepare, self._memory_bytes), daemon=True
        )
        self._process.start()
        theirs.close()
        with contextlib.suppress(EOFError):
            if self._connection.poll(START_SECONDS):
                self._connection.recv()
                return self._connection
        self.close()
        raise Crashed("the process did not start")


def _serve(
    connection: Connection, prepare: Callable[[], Callable[[Any], Any]], memory_bytes: int
) -> None:
    import resource
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    function = prepare()
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            connection.send(function(connection.recv()))
