"""Access control of the store: tokens, roles, and passwords from browsers."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from tests.store.web.looking import is_page
from tests.store_fixtures import CATALOG
from tuneloop.errors import SpecError
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database
from tuneloop.store.middleware import auth
from tuneloop.store.middleware.auth import ROLES, new_token, parse_tokens

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def secrets() -> dict[str, str]:
    """A token of each role, and the content of the token file."""
    made = {role: new_token(f"{role}er", role) for role in ROLES}
    file = "\n".join(["# tokens", "", *(line for _, line in made.values())])
    return {**{role: token for role, (token, _) in made.items()}, "file": file}


@pytest.fixture
def guarded(database: Database, artifacts: Any, secrets: dict[str, str]) -> Iterator[TestClient]:
    tokens = parse_tokens(secrets["file"], "tokens")
    app = create_app(database, str(artifacts), CATALOG, tokens=tokens)
    with TestClient(app) as client:
        yield client


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_each_role_may_do_what_it_is_for(
    guarded: TestClient, secrets: dict[str, str], make_trace: Make
) -> None:
    def codes(role: str) -> list[int]:
        headers = bearing(secrets[role])
        made = guarded.post("/api/traces", json=make_trace(), headers=headers)
        listed = guarded.get("/api/traces", headers=headers)
        first = listed.json()["data"]
        trace_id = first[0]["id"] if first else "00000000-0000-4000-8000-000000000000"
        gone = guarded.delete(f"/api/traces/{trace_id}", headers=headers)
        return [made.status_code, listed.status_code, gone.status_code]

    assert codes("read") == [403, 200, 403]
    assert codes("write") == [201, 200, 403]
    assert codes("admin") == [201, 200, 204]
    said = guarded.post("/api/traces", json=make_trace(), headers=bearing(secrets["read"]))
    assert said.json() == {"detail": "Token reader has role read, this needs write"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic dTpw"},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_without_a_token_there_is_no_way_in(guarded: TestClient, headers: Any) -> None:
    for path in ("/api/traces", "/openapi.json", "/docs", "/nowhere"):
        reply = guarded.get(path, headers=headers)
        assert (reply.status_code, reply.json()) == (401, {"detail": "Unknown or missing token"})
        assert reply.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz", "/api/health"):
        assert guarded.get(path, headers=headers).status_code == 200


def test_the_digest_is_no_token(guarded: TestClient, secrets: dict[str, str]) -> None:
    digest = hashlib.sha256(secrets["admin"].encode()).hexdigest()
    assert digest in secrets["file"]
    assert secrets["admin"] not in secrets["file"]
    assert guarded.get("/api/traces", headers=bearing(digest)).status_code == 401


def test_guessing_is_slowed_down_for_a_while(
    guarded: TestClient, secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    codes = [guarded.get("/api/traces").status_code for _ in range(auth.FAILURES + 1)]
    assert codes == [401] * auth.FAILURES + [429]
    held = guarded.get("/api/traces", headers=bearing("wrong"))
    assert (held.status_code, held.headers["retry-after"]) == (429, "61")
    assert guarded.get("/healthz").status_code == 200
    # Others may share the address, so a valid token is never locked out.
    assert guarded.get("/api/traces", headers=bearing(secrets["read"])).status_code == 200
    assert guarded.get("/api/traces").status_code == 429
    clock[0] += auth.FAILURE_SECONDS + 1
    assert guarded.get("/api/traces").status_code == 401


@given(st.text(max_size=200))
def test_a_token_file_is_read_or_refused_without_showing_it(text: str) -> None:
    try:
        tokens = parse_tokens(text, "place")
    except SpecError as e:
        assert str(e).startswith("place:")
        words = [word for word in text.split() if len(word) > 12]
        assert not [word for word in words if word in str(e)]
    else:
        assert all(len(token.digest) == 64 for token in tokens)


def basic(password: str, user: str = "me") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_a_browser_gives_the_token_as_a_password(
    guarded: TestClient, secrets: dict[str, str]
) -> None:
    asked = guarded.get("/")
    assert asked.status_code == 401
    assert asked.headers["www-authenticate"] == 'Basic realm="tuneloop", charset="UTF-8"'
    is_page(asked)
    for user in ("me", "", "ü"):
        assert guarded.get("/", headers=basic(secrets["read"], user)).status_code == 200
        assert guarded.head("/runs", headers=basic(secrets["read"], user)).status_code == 200
    assert (
        guarded.get("/", headers={"Authorization": f"Bearer {secrets['read']}"}).status_code == 200
    )


def test_the_api_takes_no_password(guarded: TestClient, secrets: dict[str, str]) -> None:
    for path in ("/api/traces", "/openapi.json", "/docs", "/nowhere", "/api/%2e%2e/traces"):
        refused = guarded.get(path, headers=basic(secrets["read"]))
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json() == {"detail": "Unknown or missing token"}
    assert (
        guarded.get("/traces/%2e%2e/api/traces", headers=basic(secrets["read"])).status_code == 404
    )
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        refused = guarded.request(method, "/traces", headers=basic(secrets["read"]))
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !",
        "Basic é",
        "Basic bWU=",
        "Basic bWU6",
        "Basic bWU6d3Jvbmc=",
        "Bearer wrong",
        "x",
    ],
)
def test_a_wrong_password_is_no_way_in(guarded: TestClient, header: str) -> None:
    refused = guarded.get("/", headers={b"Authorization": header.encode()})
    assert refused.status_code == 401
    assert "wrong" not in refused.text


def test_guessing_passwords_is_slowed_down_and_asking_is_not(
    guarded: TestClient, secrets: dict[str, str]
) -> None:
    assert [guarded.get("/").status_code for _ in range(2 * auth.FAILURES)] == [401] * 20
    assert guarded.get("/", headers=basic(secrets["read"])).status_code == 200
    codes = [guarded.get("/", headers=basic("wrong")).status_code for _ in range(auth.FAILURES + 1)]
    assert codes == [401] * auth.FAILURES + [429]
    held = guarded.get("/", headers=basic("wrong"))
    assert held.status_code == 429
    assert held.headers["retry-after"]
    is_page(held)
    assert guarded.get("/").status_code == 401  # The browser can still ask for the password.
    assert guarded.get("/", headers=basic(secrets["read"])).status_code == 200
    assert guarded.get("/api/traces", headers=bearing(secrets["read"])).status_code == 200
