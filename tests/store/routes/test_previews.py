"""A build publishes what a preview of the same request has selected, without selecting again."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.store.requests import BUILD, Make
from tests.store.web.looking import post
from tuneloop.store.db import kept, select
from tuneloop.store.web import dataset_builder

PREVIEW = "/api/datasets/preview"
RULES = {"where": {"reward": {"min": 0.4}}, "best_of": {"count": 2}}


def fill(http: TestClient, make_trace: Make) -> list[str]:
    rows = (
        make_trace(n, trace_version="1.1", prompt=f"p{n % 2}", reward=n / 10) for n in range(10)
    )
    return post(http, *rows)


def request(version: str = "v1", **fields: Any) -> dict[str, Any]:
    return {"dataset_name": "d", "dataset_version": version, **fields}


def built_ids(http: TestClient, key: str) -> list[str]:
    text = http.get(f"/api/datasets/{key}/export.jsonl?format=ids").text
    return [line[7:43] for line in text.splitlines()]


@pytest.fixture
def selections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of selections that were really made."""
    seeds: list[int] = []
    real = select._choose_now

    def choose(connection: Any, asked: Any, seed: int, members: Any) -> Any:
        seeds.append(seed)
        return real(connection, asked, seed, members)

    monkeypatch.setattr(select, "_choose_now", choose)
    return seeds


@pytest.mark.parametrize(
    "fields",
    [{"selection": RULES}, {"selection_strategy": "random", "limit": 9}, {"limit": 3}],
)
def test_traces_are_selected_once(
    http: TestClient, make_trace: Make, selections: list[int], fields: dict[str, Any]
) -> None:
    fill(http, make_trace)
    preview = http.post(PREVIEW, json=request(**fields)).json()
    fill(http, make_trace)  # They are newer, and not in the preview.
    body = request(**fields, seed=preview["seed"])
    reply = http.post(BUILD, json=body, params={"preview": preview["preview_id"]})
    assert (reply.status_code, reply.json()["account"]) == (201, preview["account"])
    again = http.post(BUILD, json=body, params={"preview": preview["preview_id"]})
    assert (again.status_code, again.json()) == (200, reply.json())
    assert selections == [7]
    # Without the preview, the traces of today are selected.
    assert http.post(BUILD, json=body).status_code == 409
    assert len(selections) == 2
    today = request("v2", **fields, seed=preview["seed"])
    assert http.post(BUILD, json=today, params={"preview": "nonsense"}).status_code == 201
    assert set(built_ids(http, "d-v1")) != set(built_ids(http, "d-v2"))


def test_other_requests_deleted_traces_and_old_previews_select_anew(
    http: TestClient, make_trace: Make, selections: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = fill(http, make_trace)

    def build(version: str, name: str, **fields: Any) -> Any:
        body = request(version, **{"seed": 7, "limit": 3, **fields})
        return http.post(BUILD, json=body, params={"preview": name})

    def preview(version: str) -> str:
        return str(http.post(PREVIEW, json=request(version, limit=3)).json()["preview_id"])

    first = preview("v1")
    for fields in ({"limit": 4}, {"filters": {"number": 1}}, {"seed": 8}):
        build("v1", first, **fields)
        assert http.delete("/api/datasets/d-v1").status_code == 204
    assert len(selections) == 4
    http.delete(f"/api/traces/{ids[-1]}")
    assert build("v1", first).json()["account"]["considered"] == 9
    assert built_ids(http, "d-v1") == ids[-2:-5:-1]
    monkeypatch.setattr(kept, "KEPT_SECONDS", -1)
    build("v2", preview("v2"))
    assert len(selections) == 7
    monkeypatch.setattr(kept, "KEPT_SECONDS", 60)
    oldest, *_ = [preview("v3") for _ in range(kept.KEPT_COUNT + 1)]
    before = len(selections)
    build("v3", oldest)
    assert len(selections) == before + 1


def test_the_page_selects_once(
    app: FastAPI, http: TestClient, make_trace: Make, selections: list[int]
) -> None:
    fill(http, make_trace)
    asked = {"dataset_name": "d", "best_of": "1"}
    page = http.get("/datasets/new", params=asked).text
    found = page.split('name="preview" value="')[1].split('"')[0]
    form = {**dataset_builder.DEFAULTS, **asked, "seed": "7", "preview": found}
    sent = http.post("/datasets/new", data=form, headers={"sec-fetch-site": "same-origin"})
    assert (sent.status_code, selections) == (200, [7])
    assert http.get("/api/datasets").json()[0]["trace_count"] == 2
