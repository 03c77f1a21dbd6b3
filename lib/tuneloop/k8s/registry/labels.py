"""Read the labels of an image with the OCI distribution API: manifest, then configuration."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator
from typing import TypeVar
from urllib.request import parse_http_list, parse_keqv_list

import httpx
import msgspec

from tuneloop.errors import Unavailable
from tuneloop.http_settings import make_client
from tuneloop.k8s.registry.credentials import Credentials, find_credentials
from tuneloop.k8s.registry.reference import Reference, parse_reference

T = TypeVar("T")

SECONDS = 5.0
"""Seconds that a registry may take to connect, and between two parts of an answer."""
MAX_BYTES = 4 << 20
"""Largest manifest or configuration that is read; registries limit manifests to this size."""
MEDIA_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""


class _Descriptor(msgspec.Struct):
    digest: str
    platform: _Platform = msgspec.field(default_factory=_Platform)


class _Manifest(msgspec.Struct):
    """A manifest, which has a config, or an index, which has manifests."""

    config: _Descriptor | None = None
    manifests: list[_Descriptor] = []


class _Settings(msgspec.Struct):
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _Config(msgspec.Struct):
    config: _Settings | None = None


def read_labels(image: str) -> dict[str, str]:
    """Return the labels of an image; empty if it has none.

    Each request is sent once, because the caller can go on without the labels.

    Args:
        image: reference of the image, with a digest or a tag.

    Raises:
        Unavailable: the labels cannot be read; the message is the reason, without the image.
        UsageError: a file of logins on this machine cannot be used.
    """
    with _connected(image) as (client, reference):
        manifest = _decode(_manifest(client, reference, reference.version), _Manifest)
        if manifest.manifests:
            chosen = _chosen(manifest.manifests)
            manifest = _decode(_manifest(client, reference, chosen.digest), _Manifest)
        if manifest.config is None:
            raise Unavailable(f"{reference.host} has no image of a known format there")
        digest = manifest.config.digest
        blob = _get(client, f"{reference.api}/blobs/{digest}", digest)
    settings = _decode(blob, _Config).config
    return (settings.labels if settings else None) or {}


def read_digest(image: str) -> str:
    """Return the digest that the tag of an image has now; that of the index if there is one.

    Args:
        image: reference of the image, with a tag.

    Raises:
        Unavailable: the registry does not tell it.
        UsageError: a file of logins on this machine cannot be used.
    """
    with _connected(image) as (client, reference):
        found = _manifest(client, reference, reference.version)
    return f"sha256:{hashlib.sha256(found).hexdigest()}"


@contextlib.contextmanager
def _connected(image: str) -> Iterator[tuple[httpx.Client, Reference]]:
    """Yield a client of the registry of an image; its errors become Unavailable."""
    reference = parse_reference(image)
    if reference is None:
        raise Unavailable("it is no image reference, expected REPOSITORY@sha256:DIGEST")
    auth = RegistryAuth(find_credentials(reference.host))
    try:
        url = httpx.URL(reference.api)
        with make_client(url, auth=auth, timeout=SECONDS, follow_redirects=True) as client:
            yield client, reference
    except (httpx.HTTPError, httpx.InvalidURL) as e:
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise Unavailable(f"{reference.host} cannot be reached: {reason}") from e


def _manifest(client: httpx.Client, reference: Reference, version: str) -> bytes:
    digest = version if version.startswith("sha256:") else None
    return _get(client, f"{reference.api}/manifests/{version}", digest)


def _get(client: httpx.Client, url: str, digest: str | None) -> bytes:
    host, data = httpx.URL(url).host, b""
    with client.stream("GET", url, headers={"Accept": ", ".join(MEDIA_TYPES)}) as answer:
        if answer.status_code in (401, 403):
            raise Unavailable(f"{host} denies access; run `docker login {host}`")
        if answer.status_code == 404:
            raise Unavailable(f"{host} has no such image, or hides it from this account")
        if answer.status_code != 200:
            raise Unavailable(f"{host} answers with status {answer.status_code}")
        for part in answer.iter_bytes():
            data += part
            if len(data) > MAX_BYTES:
                raise Unavailable(f"{host} answers with more than {MAX_BYTES >> 20} MiB")
    if digest and f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise Unavailable(f"{host} answers with content of another digest than {digest}")
    return data


def _chosen(manifests: list[_Descriptor]) -> _Descriptor:
    """Return the image for the most common nodes; all platforms of an image have equal labels."""
    wanted = _Platform("linux", "amd64")
    return next((each for each in manifests if each.platform == wanted), manifests[0])


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as e:
        raise Unavailable(f"its description in the registry cannot be read: {e}") from e


class RegistryAuth(httpx.Auth):
    """Authenticate as the registry asks: with a password, or with a token of its token service."""

    def __init__(self, login: Credentials | None) -> None:
        self._login = login
        self._header: str | None = None

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request; if it is refused, log in as the answer demands and send it again."""
        if self._header:
            request.headers["Authorization"] = self._header
        answer = yield request
        scheme, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        if answer.status_code != 401:
            return
        if scheme.lower() == "basic" and self._login:
            self._header = self._login.basic
        elif scheme.lower() == "bearer":
            challenge = parse_keqv_list(parse_http_list(rest))
            token = yield self._token_request(request, challenge)
            token.read()
            self._header = _bearer(token)
        if self._header:
            request.headers["Authorization"] = self._header
            yield request

    def _token_request(self, request: httpx.Request, challenge: dict[str, str]) -> httpx.Request:
        realm = httpx.URL(challenge.get("realm", ""))
        fields = {name: text for name, text in challenge.items() if name in ("service", "scope")}
        # A registry must not make this machine send a password in clear text to another one.
        if self._login is None or (realm.scheme != "https" and request.url.scheme == "https"):
            return httpx.Request("GET", realm.copy_merge_params(fields))
        if self._login.is_identity_token:
            grant = {"grant_type": "refresh_token", "refresh_token": self._login.secret}
            return httpx.Request("POST", realm, data={**fields, **grant, "client_id": "tuneloop"})
        headers = {"Authorization": self._login.basic}
        return httpx.Request("GET", realm.copy_merge_params(fields), headers=headers)


def _bearer(answer: httpx.Response) -> str | None:
    """Return the header with the token of a token service; None if it grants none."""
    if answer.status_code != 200:
        return None
    try:
        found = msgspec.json.decode(answer.content, type=dict[str, object])
    except msgspec.MsgspecError:
        return None
    token = found.get("token") or found.get("access_token")
    return f"Bearer {token}" if token else None
