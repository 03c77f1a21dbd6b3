"""Rolling updates and lost replicas under load: acknowledged batches are stored.

Store processes on one PostgreSQL represent the replicas, and a round-robin proxy of connections
represents the Service. Its endpoints change as in Kubernetes: a replica that is asked to stop is
removed first (preStop), and a replica that dies is removed some time later, after a failed probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from tests.postgres import Postgres
from tests.store.stores import Store, check_batches
from tuneloop.traces.client import TraceClient

Make = Callable[..., dict[str, Any]]
CLIENTS = 8
BATCH_TRACES = 20
PHASE_SECONDS = 2.0
PROBE_SECONDS = 1.0
"""Seconds for which connections still go to a replica that has died."""


class Proxy:
    """A proxy that passes each new connection to the next endpoint."""

    def __init__(self) -> None:
        self.endpoints: list[int] = []
        self.broken = 0
        """Number of connections that an endpoint refused or reset."""
        self._turns = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0
        self._server: asyncio.Server

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        endpoints = list(self.endpoints)
        port = endpoints[next(self._turns) % len(endpoints)]
        try:
            behind = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            self.broken += 1
            writer.transport.abort()
            return
        one = asyncio.create_task(self._pass_on(reader, behind[1]))
        two = asyncio.create_task(self._pass_on(behind[0], writer))
        try:
            await asyncio.wait({one, two}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (one, two):
                task.cancel()
            for end in (writer, behind[1]):
                end.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            self.broken += 1


class Load:
    """Clients of the store that post one batch after the other until they are stopped."""

    def __init__(self, url: str, make: Make) -> None:
        self.sent: dict[str, int] = {}
        self.acked: dict[str, float] = {}
        """Time of acknowledgement by name of the batch."""
        self._url, self._make = url, make
        self._stop = threading.Event()

    def run(self, number: int) -> None:
        with TraceClient(self._url, retry_seconds=60) as client:
            for n in itertools.count():
                name = f"{number}/{n}"
                batch = [self._make(i, meta={"batch": name, "i": i}) for i in range(BATCH_TRACES)]
                self.sent[name] = len(batch)
                assert len(client.post_batch(batch, name)) == len(batch)
                self.acked[name] = time.monotonic()
                if self._stop.wait(0.1):
                    return

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run all clients at once; if one fails, the test fails."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self.run, number) for number in range(CLIENTS)]
            try:
                yield
            finally:
                self._stop.set()
            for client in clients:
                client.result(90)

    def go_on(self) -> None:
        """Wait some seconds, and until batches have been stored meanwhile."""
        before, deadline = len(self.acked), time.monotonic() + 60
        time.sleep(PHASE_SECONDS)
        while len(self.acked) < before + CLIENTS:
            assert time.monotonic() < deadline, "nothing is stored any more"
            time.sleep(0.05)


@pytest.fixture
def new_replica(postgres_url: str, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    started: list[Store] = []

    def start() -> Store:
        log = tmp_path / f"store-{len(started)}.log"
        started.append(Store(postgres_url, tmp_path / "artifacts", log))
        started[-1].wait_until_ready()
        return started[-1]

    yield start
    for store in started:
        store.process.kill()
        store.process.wait()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    with postgres.lent() as lend:
        yield lend()


def replace(proxy: Proxy, old: Store, new_replica: Callable[[], Store]) -> Store:
    """With maxSurge 1 and maxUnavailable 0, a new replica is ready before an old one is stopped."""
    new = new_replica()
    proxy.endpoints = [*(p for p in proxy.endpoints if p != old.port), new.port]
    time.sleep(PROBE_SECONDS)  # This is the preStop pause.
    assert old.stop() == 0, "it did not end what was in flight"
    return new


def test_it_rolls_and_loses_a_replica_and_keeps_its_word(
    new_replica: Callable[[], Store],
    postgres_url: str,
    make_trace: Make,
    tmp_path: Path,
) -> None:
    with Proxy() as proxy:
        first, second = new_replica(), new_replica()
        proxy.endpoints = [first.port, second.port]
        load = Load(f"http://127.0.0.1:{proxy.port}", make_trace)
        with load.running():
            load.go_on()
            third = replace(proxy, first, new_replica)
            load.go_on()
            fourth = replace(proxy, second, new_replica)
            load.go_on()
            rolled = proxy.broken
            third.kill()
            time.sleep(PROBE_SECONDS)  # The endpoint still gets its share of new connections.
            proxy.endpoints = [fourth.port]
            load.go_on()
            fifth = new_replica()
            proxy.endpoints = [fourth.port, fifth.port]
            load.go_on()
        lost = proxy.broken - rolled
    statuses: Counter[int] = Counter()
    for store in (first, second, third, fourth, fifth):
        statuses += store.statuses()
    assert set(statuses) == {201}, statuses
    assert lost >= 1, "nobody noticed the loss, so nothing was tried"
    assert set(load.acked) == set(load.sent), "every batch was acknowledged in the end"
    assert check_batches(postgres_url, load.sent, set(load.acked)) == set(load.sent)
    times = sorted(load.acked.values())
    pause = max(after - before for before, after in itertools.pairwise(times))
    print(  # noqa: T201 - with `pytest -s`: what docs/how-to/cluster-base.md says
        f"{len(times)} batches in {times[-1] - times[0]:.1f} s, longest pause {pause:.2f} s,"
        f" connections broken while rolling {rolled}, by the loss {lost}"
    )
    assert pause < 30, "an outage"
