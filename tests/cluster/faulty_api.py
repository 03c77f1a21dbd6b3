"""A proxy in front of the real API server that makes requests fail as a busy cluster does.

Faults: a share of the requests (500, 503, a reset before or after the server has acted, half of an
answer), storms of 429, outages in which no connection works, and tokens that expire.
"""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientSession, TCPConnector, web

from tests.cluster.controlplane import ControlPlane
from tests.event_loop import serving

FAULTS = (500, 503, "lost request", "lost answer", "half an answer")


@dataclass
class FaultyApi:
    """The proxy; one for all supervisors of a test."""

    control_plane: ControlPlane
    folder: Path
    """Folder for the kubeconfig and the file with the current token."""
    share: float = 0.05
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    port: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(1))
    _busy_until: float = 0.0
    _away_until: float = 0.0
    _accepted: set[str] = field(default_factory=set)

    def storm(self, seconds: float) -> None:
        """Answer every request with 429 for this time."""
        self._busy_until = time.monotonic() + seconds

    def outage(self, seconds: float) -> None:
        """Break every connection for this time."""
        self._away_until = time.monotonic() + seconds

    def expire_token(self) -> None:
        """Accept only a new token, which the token file has from now on."""
        token = secrets.token_hex(16)
        self._accepted.add(token)
        (self.folder / "new-token").write_text(token)
        (self.folder / "new-token").replace(self.folder / "token")
        self._accepted = {token}

    @property
    def kubeconfig(self) -> str:
        """Path of a kubeconfig that leads here."""
        return str(self.folder / "kubeconfig")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.expire_token()
        with serving(self._start, self._stop):
            user = {"tokenFile": str(self.folder / "token")}
            server = f"http://127.0.0.1:{self.port}"
            config = {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "faulty", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "faulty",
            }
            (self.folder / "kubeconfig").write_text(json.dumps(config))
            yield

    async def _start(self) -> web.AppRunner:
        trust = ssl.create_default_context(cafile=str(self.control_plane.authority))
        connector = TCPConnector(ssl=trust, limit=0)
        self._session = ClientSession(connector=connector, auto_decompress=False)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner

    async def _stop(self, runner: web.AppRunner) -> None:
        await runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        body = await request.read()
        now = time.monotonic()
        if now < self._away_until:
            return self._reset(request, "outage")
        if now < self._busy_until:
            self.faults["429"] += 1
            headers = {"Retry-After": "1"}
            return web.Response(status=429, headers=headers, text='{"message": "busy"}')
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self._accepted:
            self.faults["401"] += 1
            return web.Response(status=401, text='{"message": "Unauthorized"}')
        fault = self._random.choice(FAULTS) if self._random.random() < self.share else None
        if isinstance(fault, int):
            self.faults[str(fault)] += 1
            return web.Response(status=fault, text='{"message": "internal"}')
        if fault == "lost request":
            return self._reset(request, fault)
        headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
        headers["Authorization"] = f"Bearer {self.control_plane.token}"
        url = self.control_plane.url + request.raw_path
        async with self._session.request(
            request.method, url, data=body or None, headers=headers
        ) as found:
            data = await found.read()
            kept = {
                name: value
                for name, value in found.headers.items()
                if name.lower() in ("content-type", "content-encoding", "date", "warning")
            }
            if fault == "lost answer":
                return self._reset(request, fault)
            if fault == "half an answer":
                response = web.StreamResponse(status=found.status, headers=kept)
                response.content_length = len(data)
                with contextlib.suppress(ConnectionResetError):
                    await response.prepare(request)
                    await response.write(data[: len(data) // 2])
                self._reset(request, fault)
                return response
            return web.Response(status=found.status, body=data, headers=kept)

    def _reset(self, request: web.Request, fault: str) -> web.Response:
        self.faults[fault] += 1
        if request.transport is not None:
            request.transport.close()
        return web.Response()
