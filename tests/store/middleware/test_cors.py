"""CORS: no origin is allowed by default; named origins are."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.store_fixtures import CATALOG
from tuneloop.errors import SpecError
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database
from tuneloop.store.middleware.auth import new_token, parse_tokens
from tuneloop.store.middleware.cors import check_origins

PAGE = "https://example.org"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, idempotency-key",
}
ALLOWED = "access-control-allow-origin"


def client(database: Database, artifacts: Any, tokens: str = "", *origins: str) -> TestClient:
    parsed = parse_tokens(tokens, "tokens") if tokens else ()
    app = create_app(database, str(artifacts), CATALOG, tokens=parsed, cors_origins=origins)
    return TestClient(app)


def test_off_by_default(http: TestClient) -> None:
    assert http.options("/api/traces", headers=PREFLIGHT).status_code == 405
    assert ALLOWED not in http.get("/api/traces", headers={"Origin": PAGE}).headers


def test_only_named_origins_and_no_credentials(database: Database, artifacts: Any) -> None:
    http = client(database, artifacts, "", PAGE)
    reply = http.options("/api/traces", headers=PREFLIGHT)
    assert (reply.status_code, reply.headers[ALLOWED]) == (200, PAGE)
    assert "access-control-allow-credentials" not in reply.headers
    other = {**PREFLIGHT, "Origin": f"{PAGE}.evil.example"}
    refused = http.options("/api/traces", headers=other)
    assert refused.status_code == 400
    assert ALLOWED not in refused.headers
    got = http.get("/api/traces", headers={"Origin": PAGE})
    assert (got.headers[ALLOWED], got.headers["vary"]) == (PAGE, "Origin")
    assert ALLOWED not in http.get("/api/traces", headers={"Origin": other["Origin"]}).headers
    assert "X-Request-ID" in got.headers["access-control-expose-headers"]


def test_a_preflight_needs_no_token_and_a_refusal_can_be_read(
    database: Database, artifacts: Any
) -> None:
    token, line = new_token("page", "read")
    http = client(database, artifacts, line, PAGE)
    assert http.options("/api/traces", headers=PREFLIGHT).status_code == 200
    refused = http.get("/api/traces", headers={"Origin": PAGE})
    assert (refused.status_code, refused.headers[ALLOWED]) == (401, PAGE)
    bearing = {"Origin": PAGE, "Authorization": f"Bearer {token}"}
    assert http.get("/api/traces", headers=bearing).status_code == 200
    plain = client(database, artifacts, line)
    assert plain.options("/api/traces", headers=PREFLIGHT).status_code == 401


@pytest.mark.parametrize(
    ("origin", "has_tokens", "words"),
    [
        ("*", False, "without tokens, every web page"),
        ("*", True, ""),
        ("http://localhost:5173", False, ""),
        ("https://[::1]:8443", False, ""),
        ("https://example.org/", True, "without a path"),
        ("https://Example.org", True, "lower case"),
        ("example.org", True, "SCHEME://HOST"),
        ("null", True, "SCHEME://HOST"),
        ("https://*.example.org", True, "SCHEME://HOST"),
        ("", True, "SCHEME://HOST"),
    ],
)
def test_what_may_be_named(origin: str, has_tokens: bool, words: str) -> None:
    if not words:
        check_origins([origin], has_tokens=has_tokens)
        return
    with pytest.raises(SpecError) as caught:
        check_origins(["https://ok.example", origin], has_tokens=has_tokens)
    assert words in " ".join(str(caught.value).split())
