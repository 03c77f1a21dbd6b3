"""Helpers to request and check web pages."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from typing import Any, Protocol

from fastapi.testclient import TestClient


class Reply(Protocol):
    """A response of httpx, or of the test client's own copy of httpx."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def text(self) -> str: ...


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def look(http: TestClient, path: str, status: int = 200) -> str:
    """Request a path and check that the reply is a web page."""
    reply = http.get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (
        status,
        "text/html; charset=utf-8",
    )
    is_page(reply)
    return reply.text


def is_page(reply: Reply) -> None:
    policy = reply.headers["content-security-policy"]
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/]{43}=';"
        r"( script-src 'sha256-[\w+/]{43}=';( connect-src 'self';)?)? form-action 'self';"
        r" frame-ancestors 'none'; base-uri 'none'",
        policy,
    )
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "same-origin"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.text.startswith("<!DOCTYPE html>")
    assert len(re.findall("<h1", reply.text)) == 1
    text = reply.text
    if "script-src" in policy:  # an unfinished run or a review: one script, the one of the policy
        before, script, after = re.split("<script>(.*?)</script>", text, maxsplit=1, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy
        text = before + after
    for never in ("<script", "<img", "<link", "<iframe", " style=", " onclick", "javascript:alert"):
        assert never not in re.sub(r"<code.*?</code>", "", text, flags=re.S), never


def text_of(page: str) -> str:
    body = page.split("<main", 1)[1].split("</main>")[0]
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", body)).split())


def post(http: TestClient, *traces: dict[str, Any]) -> list[str]:
    reply = http.post("/api/traces/batch", json=list(traces))
    assert reply.status_code == 201
    return [trace["id"] for trace in reply.json()["traces"]]
