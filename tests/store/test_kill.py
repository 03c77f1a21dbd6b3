"""SIGKILL under load: acknowledged batches are stored once, and all others whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.store.stores import START_SECONDS, Store, check_batches

Make = Callable[..., dict[str, Any]]
SECONDS = 24.0
KILLS = 4
CLIENTS = 100
WITHOUT_KEY = 20
"""Clients that send no Idempotency-Key and therefore do not retry a batch."""


@pytest.fixture
def url(new_database_url: Callable[[], str]) -> str:
    return new_database_url()


@pytest.fixture
def killable(url: str, tmp_path: Path) -> Iterator[Store]:
    store = Store(url, tmp_path / "artifacts")
    yield store
    with contextlib.suppress(ProcessLookupError):
        store.stop()


async def post_until(
    stopped: asyncio.Event,
    http: httpx.AsyncClient,
    number: int,
    make: Make,
    sent: dict[str, int],
    acked: set[str],
) -> None:
    """Post batches of 1 to 20 traces; batches with a key are repeated until acknowledged."""
    rng = random.Random(number)
    for n in itertools.count():
        if stopped.is_set():
            return
        name, size = f"{number}/{n}", rng.randint(1, 20)
        sent[name] = size
        batch = [make(i, meta={"batch": name, "i": i}) for i in range(size)]
        headers = {} if number < WITHOUT_KEY else {"Idempotency-Key": name}
        while True:
            with contextlib.suppress(httpx.TransportError):
                reply = await http.post("/api/traces/batch", json=batch, headers=headers)
                assert reply.status_code == 201, reply.text
                acked.add(name)
            if name in acked or not headers:
                break
            await asyncio.sleep(rng.uniform(0.05, 0.2))
        await asyncio.sleep(rng.uniform(0.2, 1.0))


async def working(acked: set[str]) -> None:
    """Wait until the store has started and has stored another batch."""
    before, deadline = len(acked), time.monotonic() + START_SECONDS
    while len(acked) == before:
        assert time.monotonic() < deadline, "the store does not come up"
        await asyncio.sleep(0.05)


async def load_and_kill(store: Store, make: Make) -> tuple[dict[str, int], set[str]]:
    """Run all clients for SECONDS and kill the store KILLS times; returns (sent, acked)."""
    sent: dict[str, int] = {}
    acked: set[str] = set()
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{store.port}", limits=limits, timeout=30
    ) as http:
        # The clients finish their requests. A cancelled one may leave its socket open.
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as clients:
            for n in range(CLIENTS):
                clients.create_task(post_until(stopped, http, n, make, sent, acked))
            for _ in range(KILLS):
                await working(acked)
                await asyncio.sleep(SECONDS / (KILLS + 1) * random.uniform(0.7, 1.3))
                store.kill()
                store.start()
            await working(acked)
            await asyncio.sleep(SECONDS / (KILLS + 1))
            stopped.set()
    return sent, acked


def test_killed_under_load_it_keeps_its_word(killable: Store, url: str, make_trace: Make) -> None:
    sent, acked = asyncio.run(load_and_kill(killable, make_trace))
    assert killable.stop() == 0
    assert len(acked) > 200, "hardly anything was stored, so hardly anything was tried"
    held = check_batches(url, sent, acked)
    assert len(held - acked) <= CLIENTS * (KILLS + 1)


def test_asked_to_stop_it_finishes_what_it_is_at(
    killable: Store, url: str, make_trace: Make
) -> None:
    address = f"http://127.0.0.1:{killable.port}"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{address}/healthz")
            break
        time.sleep(0.05)

    def slowly() -> Iterator[bytes]:
        yield b"["
        time.sleep(0.5)
        killable.process.terminate()
        time.sleep(1.0)
        yield b"]"

    # The client gets a reply and not a connection reset.
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        httpx.post(f"{address}/api/traces/batch", content=slowly()).raise_for_status()
    assert killable.process.wait(timeout=30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz")
