"""A container registry for tests, from Debian's package, which asks for a login or a token.

Registries of one folder share their images.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.event_loop import serving
from tests.postgres import free_port

PROGRAM = "docker-registry"
MISSING = f"no {PROGRAM}; tests/debian-packages installs it"
USER, PASSWORD = "mäx", "pässword 🔑"
_HTPASSWD = f"{USER}:$2b$04$QPhXZWDNdg6kPpMndGA9UubKhFcNEI3sq1y9HKaEYz.O5KaaXUjUS\n"
REFRESH_TOKEN = "a-refresh-token"
START_SECONDS = 10.0
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass(frozen=True)
class Registry:
    """A running registry without a login, to put images into."""

    host: str

    def push(self, repository: str, labels: Mapping[str, str] | None) -> str:
        """Store an image without layers, for two platforms; returns its reference by digest."""
        # Making a client with certificates takes longer than a request.
        with httpx.Client(verify=False) as client:
            return self._push(client, repository, labels)

    def _push(self, client: httpx.Client, repository: str, labels: Mapping[str, str] | None) -> str:
        api = f"http://{self.host}/v2/{repository}"
        settings = {} if labels is None else {"Labels": dict(labels)}
        config = json.dumps({"config": settings, "os": "linux", "rootfs": {}}).encode()
        started = client.post(f"{api}/blobs/uploads/").raise_for_status()
        digest = digest_of(config)
        upload = httpx.URL(started.headers["Location"]).copy_add_param("digest", digest)
        client.put(upload, content=config).raise_for_status()
        described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest}
        manifest = {"mediaType": MANIFEST, "config": {**described, "size": len(config)}}
        manifests = []
        for architecture in ("arm64", "amd64"):
            one = {**manifest, "annotations": {"for": architecture}, "layers": []}
            size, found = put(client, f"{api}/manifests/{architecture}", one)
            platform = {"os": "linux", "architecture": architecture}
            manifests.append(
                {"mediaType": MANIFEST, "digest": found, "size": size, "platform": platform}
            )
        _, digest = put(client, f"{api}/manifests/v1", {"mediaType": INDEX, "manifests": manifests})
        return f"{self.host}/{repository}@{digest}"


def put(client: httpx.Client, url: str, manifest: dict[str, Any]) -> tuple[int, str]:
    """Store a manifest; returns its size in bytes and its digest."""
    data = json.dumps({"schemaVersion": 2, **manifest}).encode()
    headers = {"Content-Type": manifest["mediaType"]}
    client.put(url, content=data, headers=headers).raise_for_status()
    return len(data), digest_of(data)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextlib.contextmanager
def running(folder: Path, auth: Mapping[str, Any] | None = None) -> Iterator[Registry]:
    """Run a registry whose images are in a folder."""
    if shutil.which(PROGRAM) is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    host = f"127.0.0.1:{free_port()}"
    settings = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "images")}},
        "http": {"addr": host},
        **({"auth": auth} if auth else {}),
    }
    path = folder / f"{uuid.uuid4().hex}.yml"
    path.write_text(json.dumps(settings))
    command = [PROGRAM, "serve", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://{host}/v2/")
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{PROGRAM} did not start: {process.poll()}")
            time.sleep(0.02)
        yield Registry(host)
    finally:
        process.terminate()
        process.wait(timeout=10)


@contextlib.contextmanager
def with_password(folder: Path) -> Iterator[Registry]:
    """Run a registry that asks for user and password."""
    (folder / "htpasswd").write_text(_HTPASSWD)
    login = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    with running(folder, login) as registry:
        yield registry


@dataclass
class TokenService:
    """Grants tokens for a registry, as those of public clouds do."""

    is_public: bool = False
    """Whether anybody gets a token."""
    port: int = field(default_factory=free_port)
    requests: list[str] = field(default_factory=list)
    """Method of each request."""

    def __post_init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        since = datetime.now(UTC) - timedelta(hours=1)
        builder = x509.CertificateBuilder(name, name, self._key.public_key(), 1)
        ends = builder.not_valid_before(since).not_valid_after(since + timedelta(days=1))
        self.certificate = ends.sign(self._key, hashes.SHA256())

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/token", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        return runner

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(request.method)
        body = await request.text() if request.method == "POST" else request.query_string
        fields = {name: values[0] for name, values in parse_qs(body).items()}
        login = request.headers.get("Authorization")
        is_known = login == f"Basic {basic(USER, PASSWORD)}"
        if not (self.is_public or is_known or fields.get("refresh_token") == REFRESH_TOKEN):
            return web.json_response({"details": "unknown"}, status=401)
        name = "access_token" if request.method == "POST" else "token"
        return web.json_response({name: self._token(fields["service"], fields["scope"])})

    def _token(self, service: str, scope: str) -> str:
        kind, name, actions = scope.split(":")
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        now = time.time()
        body = {"iss": "tests", "sub": USER, "aud": service, "jti": "1", "iat": int(now)}
        access = [{"type": kind, "name": name, "actions": actions.split(",")}]
        body |= {"nbf": int(now - 60), "exp": int(now + 60), "access": access}
        signed = b".".join(_url_base64(json.dumps(part).encode()) for part in (head, body))
        signature = self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return (signed + b"." + _url_base64(signature)).decode()


def _url_base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextlib.contextmanager
def with_tokens(folder: Path, service: TokenService) -> Iterator[Registry]:
    """Run a registry that asks for tokens of a token service."""
    path = folder / f"{service.port}.pem"
    path.write_bytes(service.certificate.public_bytes(serialization.Encoding.PEM))
    names = {"service": "registry of tests", "issuer": "tests", "rootcertbundle": str(path)}
    token = {"token": {"realm": service.realm, **names}}

    async def stop(runner: web.AppRunner) -> None:
        await runner.cleanup()

    with serving(service._start, stop), running(folder, token) as registry:
        yield registry
