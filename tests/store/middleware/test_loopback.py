"""Without tokens, web pages of other sites that are open on this machine are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tuneloop.runs import store_app


@pytest.fixture
def url(sqlite_file: Path, tmp_path: Path) -> Iterator[str]:
    with store_app.running(f"sqlite:///{sqlite_file}", str(tmp_path / "artifacts")) as running:
        yield running


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[::1].evil.example"}, 403),
        ({"Host": "localhost.evil.example:80"}, 403),
        ({"Host": "[::2]"}, 403),
        ({"Host": "127.0.0.1:7", "Origin": "http://127.0.0.1:7"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "127.0.0.1:7", "Origin": "http://127.0.0.1:8"}, 403),
    ],
)
def test_who_gets_in(url: str, headers: dict[str, str], code: int) -> None:
    for path in ("/api/traces", "/", "/healthz"):
        assert httpx.get(f"{url}{path}", headers=headers).status_code == code
    reply = httpx.post(f"{url}/api/traces", content=b"{}", headers=headers)
    assert reply.status_code == (422 if code == 200 else 403)


def test_a_refusal_says_what_to_do(url: str) -> None:
    reply = httpx.post(f"{url}/api/traces/batch", headers={"Origin": "http://evil.example"})
    assert reply.json() == {
        "detail": "Origin not allowed: name it with --cors-origin, or use --tokens"
    }
    page = httpx.get(f"{url}/traces", headers={"Host": "evil.example"})
    assert page.headers["content-type"].startswith("text/html")
    assert "only answers requests to localhost" in page.text
