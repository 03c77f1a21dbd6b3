"""Labels of images in real registries: open ones, and those that ask for a password or a token."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import registry
from tests.postgres import free_port
from tuneloop.errors import Unavailable, UsageError
from tuneloop.k8s.registry import labels
from tuneloop.k8s.registry.credentials import find_credentials
from tuneloop.k8s.registry.labels import read_labels

LABELS = {"dev.tuneloop.protocols": "file,gs", "title": "Läufe 🧪", "empty": ""}


@dataclass(frozen=True)
class Stored:
    folder: Path
    reference: str
    """Reference of an image, without the host."""
    unlabelled: str
    open: registry.Registry


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    folder = tmp_path_factory.mktemp("registry")
    with registry.running(folder) as found:
        image = found.push("team/tuneloop", LABELS).removeprefix(found.host)
        yield Stored(folder, image, found.push("plain", None), found)


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that writes docker's configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)

    def write(config: Any) -> None:
        (tmp_path / "docker").mkdir(exist_ok=True)
        (tmp_path / "docker" / "config.json").write_text(json.dumps(config))

    return write


def auths(host: str, password: str = registry.PASSWORD) -> dict[str, Any]:
    return {"auths": {f"https://{host}/v1/": {"auth": registry.basic(registry.USER, password)}}}


@pytest.mark.usefixtures("login")
def test_an_open_registry(stored: Stored) -> None:
    host = stored.open.host
    assert read_labels(host + stored.reference) == LABELS
    assert read_labels(f"{host}/team/tuneloop:v1") == LABELS, "an index"
    assert read_labels(f"{host}/team/tuneloop:amd64") == LABELS, "a manifest"
    assert read_labels(stored.unlabelled) == {}
    for absent in ("team/tuneloop:v2", "absent:v1", f"plain@sha256:{'0' * 64}"):
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1 has no such image, or hides it"):
            read_labels(f"{host}/{absent}")


def test_a_registry_with_a_password(
    stored: Stored,
    login: Callable[[Any], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with registry.with_password(stored.folder) as found:
        image = found.host + stored.reference
        for config in ({}, auths("other.example"), auths(found.host, "wrong")):
            login(config)
            with pytest.raises(Unavailable, match="denies access; run `docker login 127"):
                read_labels(image)
        login(auths(found.host))
        assert read_labels(image) == LABELS
        login({})
        podman = tmp_path / "containers" / "auth.json"
        podman.parent.mkdir()
        podman.write_text(json.dumps(auths(found.host)))
        assert read_labels(image) == LABELS
        podman.write_text(json.dumps(auths(found.host, f"{registry.PASSWORD}\n")))
        assert read_labels(image) == LABELS, "the line end of a password file"
        podman.write_text("{broken")
        with pytest.raises(UsageError, match=r"auth\.json: is no file of logins"):
            read_labels(image)
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "läufe.json"))
        (tmp_path / "läufe.json").write_text(json.dumps(auths(found.host)))
        assert read_labels(image) == LABELS


SECRET = "s3cret"
WRONG = {
    "list": json.dumps([SECRET]).encode(),
    "binary": b"\xff\xfe" + SECRET.encode(),
    "deep": b"[" * 100_000,
    "huge": b" " * (5 << 20),
    "no base64": json.dumps({"auths": {"r.example": {"auth": f"{SECRET}!"}}}).encode(),
    "no colon": json.dumps({"auths": {"r.example": {"auth": "czNjcmV0"}}}).encode(),
    "no UTF-8": json.dumps({"auths": {"r.example": {"auth": "/zpzM2NyZXQ="}}}).encode(),
    "NUL": json.dumps({"auths": {"r.example": {"auth": "dTpzM2NyZXQA"}}}).encode(),
    "two words": json.dumps({"auths": {"r.example": {"identitytoken": f"a {SECRET}"}}}).encode(),
    "long": json.dumps({"auths": {"r.example": {"identitytoken": SECRET * 9999}}}).encode(),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_holds_no_login_is_named_and_not_shown(
    name: str, login: Callable[[Any], None], tmp_path: Path
) -> None:
    login({})
    path = tmp_path / "docker" / "config.json"
    path.write_bytes(WRONG[name])
    with pytest.raises(UsageError) as caught:
        find_credentials("r.example")
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert SECRET not in said
    assert len(said) < 400
    assert caught.value.__cause__ is None
    if "r.example" in WRONG[name].decode("utf-8", "replace"):
        assert find_credentials("other.example") is None, "it is no matter of other registries"


@pytest.mark.parametrize("data", ["", " \n", "{}", '{"auths": {"r.example": {"auth": ""}}}'])
def test_an_empty_login_is_none(data: str, login: Callable[[Any], None], tmp_path: Path) -> None:
    login({})
    (tmp_path / "docker" / "config.json").write_text(data)
    assert find_credentials("r.example") is None


def test_a_password_may_be_a_document(login: Callable[[Any], None]) -> None:
    key = json.dumps({"private_key": "-----BEGIN\nö\n"}, indent=1, ensure_ascii=False)
    login({"auths": {"r.example": {"auth": registry.basic("_json_key", f"{key}\n")}}})
    found = find_credentials("r.example")
    assert found is not None
    assert (found.user, found.secret) == ("_json_key", key)


def test_a_registry_with_a_token_service(stored: Stored, login: Callable[[Any], None]) -> None:
    service = registry.TokenService()
    with registry.with_tokens(stored.folder, service) as found:
        image = found.host + stored.reference
        with pytest.raises(Unavailable, match="denies access"):
            read_labels(image)
        login(auths(found.host))
        service.requests.clear()
        assert read_labels(image) == LABELS
        assert service.requests == ["GET"], "one token for index, manifest and configuration"
        login({"auths": {found.host: {"identitytoken": registry.REFRESH_TOKEN}}})
        assert read_labels(image) == LABELS
        assert service.requests == ["GET", "POST"]
        login({})
        service.is_public = True
        assert read_labels(image) == LABELS, "as Docker Hub gives tokens to anybody"


@pytest.mark.parametrize("section", ["credHelpers", "credsStore"])
def test_a_credential_helper(
    section: str,
    stored: Stored,
    login: Callable[[Any], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    helper = tmp_path / "docker-credential-tests"
    answer = json.dumps({"Username": registry.USER, "Secret": registry.PASSWORD})
    helper.write_text(f"#!/bin/sh\ngrep -q 127.0.0.1 && echo '{answer}'\n")
    helper.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with registry.with_password(stored.folder) as found:
        image = found.host + stored.reference
        for name, works in (("tests", True), ("absent", False)):
            login({section: {found.host: name} if section == "credHelpers" else name})
            if works:
                assert read_labels(image) == LABELS
            else:
                with pytest.raises(Unavailable, match="denies access"):
                    read_labels(image)


@pytest.mark.usefixtures("login")
def test_a_registry_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ cannot be reached: .*refused"):
        read_labels(f"127.0.0.1:{free_port()}/a:b")
    with pytest.raises(Unavailable, match="it is no image reference"):
        read_labels("two words")
    monkeypatch.setattr(labels, "SECONDS", 0.1)

    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Unavailable, match="cannot be reached: timed out"),
    ):
        read_labels(f"127.0.0.1:{silent.getsockname()[1]}/a:b")


def blob_of(stored: Stored, digest: str) -> Path:
    return stored.folder / "images/docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"


@pytest.mark.usefixtures("login")
def test_damaged_content_is_refused(stored: Stored) -> None:
    host = stored.open.host
    image = stored.open.push("damaged", {"a": "b"})
    index = blob_of(stored, image.rpartition(":")[2])
    whole = index.read_bytes()
    index.write_bytes(whole.replace(b"arm64", b"arm65"))
    with pytest.raises(Unavailable, match="content of another digest than sha256"):
        read_labels(image)
    index.write_bytes(whole)
    assert read_labels(image) == {"a": "b"}
    answer = httpx.get(
        f"http://{host}/v2/damaged/manifests/amd64", headers={"Accept": registry.MANIFEST}
    )
    config = blob_of(stored, answer.json()["config"]["digest"].removeprefix("sha256:"))
    config.write_bytes(b"x" * (labels.MAX_BYTES + 1))
    with pytest.raises(Unavailable, match="more than 4 MiB"):
        read_labels(image)
