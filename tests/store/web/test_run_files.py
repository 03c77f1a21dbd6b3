"""Files of runs: listed with sizes, sent as stored, and nothing outside of a run's folder."""

from __future__ import annotations

import hashlib
import html
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.finished_run import torn
from tests.store.web.looking import HOSTILE, look, text_of

ATTEMPT = "20261122T112233-064c19"


def links(page: str) -> list[str]:
    return [html.unescape(link) for link in re.findall(r'href="([^"]*/files/[^"]*)"', page)]


def test_every_file_is_linked_and_arrives(http: TestClient, artifacts: Path, run_id: str) -> None:
    torn(str(artifacts), run_id, f"train/attempts/{ATTEMPT}/model/x.safetensors", b"\0" * 3_000_000)
    page = look(http, f"/runs/{run_id}/files")
    root = artifacts / "training_runs" / run_id
    stored = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    found = links(page)
    assert sorted(link.split("/files/", 1)[1] for link in found) == sorted(stored)
    assert "model/x.safetensors 3.0 MB" in text_of(page)
    for link in found:
        reply = http.get(link)
        path = stored[link.split("/files/", 1)[1]]
        assert reply.status_code == 200
        assert hashlib.sha256(reply.content).digest() == hashlib.sha256(path.read_bytes()).digest()
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
        assert f'filename="{path.name}"' in reply.headers["content-disposition"]


def test_the_page_of_a_run_links_its_results(http: TestClient, run_id: str) -> None:
    page = look(http, f"/runs/{run_id}")
    found = links(page)
    assert f"/runs/{run_id}/files/eval/attempts/{ATTEMPT}/delta_report.md" in found
    assert f"/runs/{run_id}/files/train/attempts/{ATTEMPT}/metrics.jsonl" in found
    assert "6 results of eval" in text_of(page)
    assert "All files" in page


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("a.svg", "application/octet-stream", "attachment"),
        ("a.html", "application/octet-stream", "attachment"),
        ("a.safetensors", "application/octet-stream", "attachment"),
        ("a.md", "text/plain; charset=utf-8", "inline"),
        ("output.txt", "text/plain; charset=utf-8", "inline"),
    ],
)
def test_no_content_is_run(
    http: TestClient, artifacts: Path, run_id: str, name: str, kind: str, shown: str
) -> None:
    torn(str(artifacts), run_id, f"eval/{name}", HOSTILE)
    reply = http.get(f"/runs/{run_id}/files/eval/{name}")
    assert (reply.headers["content-type"], reply.text) == (kind, HOSTILE)
    assert reply.headers["content-disposition"] == f'{shown}; filename="{name}"'


ELSEWHERE = (
    "../letters-7c1aa298/run_manifest.json",
    "..%2f..%2fstore.db",
    "eval/..%2f..%2f..%2fsecret.txt",
    "eval//record.json",
    "%2fetc%2fpasswd",
    "eval/%00",
    "eval\\record.json",
    "eval/rec*rd.json",
    "eval/.",
    "eval",
    "eval/",
    "nothing.txt",
    "a" * 300,
    "é.txt",
    "x%0d%0aSet-Cookie:a=b",
)


def test_nothing_else_is_sent(http: TestClient, artifacts: Path, run_id: str) -> None:
    (artifacts / "secret.txt").write_text("secret")
    for path in ELSEWHERE:
        reply = http.get(f"/runs/{run_id}/files/{path}")
        assert reply.status_code == 404 or reply.url.path.count("/files") == 0, path
        assert "secret" not in reply.text, path


def test_odd_names_are_listed_without_links(http: TestClient, artifacts: Path, run_id: str) -> None:
    torn(str(artifacts), run_id, "eval/<b>مرحبا 👩🏽‍🚀.txt", "x")
    page = look(http, f"/runs/{run_id}/files")
    assert "<b>مرحبا 👩🏽‍🚀.txt" in text_of(page)
    assert not any("b>" in link for link in links(page))


def test_an_empty_file_and_no_run(http: TestClient, artifacts: Path, run_id: str) -> None:
    torn(str(artifacts), run_id, "eval/empty.txt", "")
    assert http.get(f"/runs/{run_id}/files/eval/empty.txt").content == b""
    look(http, "/runs/nowhere-1/files", 404)
    look(http, "/runs/nowhere-1/files/a.txt", 404)
