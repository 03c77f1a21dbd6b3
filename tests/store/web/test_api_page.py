"""The page of the API: it needs no other site and trusts no host name of a client."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient


def test_the_page_names_only_files_of_the_store(http: TestClient) -> None:
    reply = http.get("/docs", headers={"Host": "evil.example"})
    assert reply.status_code == 200
    assert "evil.example" not in reply.text and "//" not in reply.text.replace("<!--", "")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "unsafe" not in reply.headers["content-security-policy"]
    for url in re.findall(r'(?:src|href)="(/docs/[^"]+)"', reply.text):
        found = http.get(url)
        assert found.status_code == 200
        assert len(found.content) > 50_000
        assert found.headers["x-content-type-options"] == "nosniff"
    assert http.head("/docs").status_code == 200


def test_other_files_of_the_package_are_not_served(http: TestClient) -> None:
    for name in ("redoc.standalone.js", "..%2fcore.py", "__init__.py", ""):
        assert http.get(f"/docs/{name}").status_code in (404, 422), name
    assert http.get("/redoc").status_code == 404


def test_no_reply_redirects_to_the_host_of_the_client(http: TestClient) -> None:
    for path in ("/docs/", "/traces/", "/api/traces/", "/runs/"):
        reply = http.get(path, headers={"Host": "evil.example"}, follow_redirects=False)
        assert reply.status_code == 404, path
        assert "evil.example" not in reply.headers.get("location", "")
