"""The page that builds a dataset: its form, its preview and its confirmation."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.store.requests import BATCH, Make
from tests.store.web.looking import HOSTILE, is_page, look, text_of

SAME_ORIGIN = {"sec-fetch-site": "same-origin"}


@pytest.fixture
def traces(http: TestClient, make_trace: Make) -> list[str]:
    """Ids of 6 traces with a reward, and of 2 answers of an evaluation."""
    sent = [
        make_trace(n, trace_version="1.1", prompt=f"p{n % 2}", reward=n / 5, meta={"source": "web"})
        for n in range(6)
    ]
    sent += [make_trace(n, meta={"source": "evaluation"}) for n in (6, 7)]
    return [one["id"] for one in http.post(BATCH, json=sent).json()["traces"]]


def preview(http: TestClient, status: int = 200, **fields: Any) -> str:
    reply = http.get("/datasets/new", params={"dataset_name": "d", **fields})
    assert reply.status_code == status
    is_page(reply)
    return reply.text


def hidden(page: str) -> dict[str, str]:
    """Return the values that the second form sends."""
    form = page[page.index('method="post"') :].split("</form>")[0]
    found = re.findall(r'<input type="hidden" name="(\w+)" value="(.*?)">', form, re.S)
    return {name: html.unescape(value) for name, value in found}


def test_the_form_is_linked_and_works_without_a_script(http: TestClient) -> None:
    assert 'href="/datasets/new"' in look(http, "/datasets")
    page = look(http, "/datasets/new")
    assert "Preview" in text_of(page)
    assert 'method="post"' not in page
    fields = re.findall(r'<(?:input|textarea|select) id="(\w+)"', page)
    assert sorted(fields) == sorted(re.findall(r'<label for="(\w+)"', page))


def test_the_preview_writes_nothing_and_the_confirmation_builds_it(
    http: TestClient, traces: list[str]
) -> None:
    page = preview(
        http, where="reward>=0.4\nsource=web", best_of="1", caps="source=5", instruction="Think."
    )
    said = text_of(page)
    assert "traces in the store 8" in said
    assert "no answers of evaluated models 2 6" in said
    assert "where reward 2 4" in said
    assert "best of each prompt 2 2 2 prompts" in said
    assert "Build 2 traces as d-v1" in said
    assert http.get("/api/datasets").json() == []
    sent = hidden(page)
    reply = http.post("/datasets/new", data=sent, headers=SAME_ORIGIN, follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (303, "/datasets/d-v1")
    manifest = http.get("/api/datasets/d-v1").json()
    assert manifest["instruction"] == "Think."
    assert str(manifest["seed"]) == sent["seed"]
    assert [one["id"] for one in map(_json, _export(http))] == [traces[5], traces[4]]
    assert "best of each prompt 2 2 2 prompts" in text_of(look(http, "/datasets/d-v1"))
    assert "is published already" in text_of(preview(http))


def test_the_preview_of_chats_names_their_recipe(http: TestClient, make_trace: Make) -> None:
    system = {"trace_version": "1.1", "system": "Be kind"}
    http.post(BATCH, json=[make_trace(1), *(make_trace(n, **system) for n in range(12))])
    words = "12 of the first 13 traces are chat"
    assert words in text_of(preview(http))
    assert words not in text_of(preview(http, filters='{"n": "no trace"}'))


def _export(http: TestClient) -> list[str]:
    return http.get("/api/datasets/d-v1/export.jsonl?format=ids").text.splitlines()


def _json(line: str) -> Any:
    import json

    return json.loads(line)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dataset_name": ""}, "dataset_name"),
        ({"where": "reward"}, "not valid: comparison 'reward': expected FIELD&gt;=VALUE"),
        ({"where": "rewards>=1"}, "found the field"),
        ({"filters": "{"}, "not valid: filters: not JSON"),
        ({"filters": "[" * 3000}, "not valid: filters: are nested too deeply"),
        ({"where": "source=" + "[" * 3000}, "is nested too deeply"),
        ({"where": "reward==1"}, "value '=1': begins with an operator"),
        ({"filters": "[1]"}, "filters"),
        ({"best_of": "many"}, "not valid: best_of: found 'many', expected a number"),
        ({"best_of": "0"}, "best_of"),
        ({"min_pass_rate": "2"}, "pass_rate.min"),
        ({"datasets": "gone-v1"}, "Dataset not found: gone-v1"),
        ({"recipe": "none"}, "Unknown recipe: none"),
        ({"selection_strategy": "x"}, "selection_strategy"),
        ({"where": HOSTILE}, "&lt;script&gt;"),
    ],
)
def test_a_wrong_value_is_explained_above_the_form(
    http: TestClient, traces: list[str], fields: dict[str, str], words: str
) -> None:
    page = preview(http, 422, **fields)
    notice = re.search(r'<p class="notice bad" role="alert">(.*?)</p>', page, re.S)
    assert notice is not None
    assert words in notice[1].replace("&#39;", "'")
    assert "traces in the store" not in page


def test_nothing_left_offers_no_build(http: TestClient, traces: list[str]) -> None:
    page = preview(http, where="reward>=9")
    assert "No trace is left" in text_of(page)
    assert 'method="post"' not in page
    data = {"dataset_name": "d", "where": "reward>=9"}
    reply = http.post("/datasets/new", data=data, headers=SAME_ORIGIN)
    assert reply.status_code == 422
    assert "Dataset is empty" in text_of(reply.text)


def test_other_traces_under_a_published_name_are_a_conflict(
    http: TestClient, traces: list[str]
) -> None:
    for where, status in (("", 303), ("reward>=0.5", 409)):
        data = {"dataset_name": "d", "seed": "1", "where": where}
        reply = http.post("/datasets/new", data=data, headers=SAME_ORIGIN, follow_redirects=False)
        assert reply.status_code == status
    assert "a dataset never changes" in text_of(reply.text)


def test_other_sites_cannot_build(http: TestClient, traces: list[str]) -> None:
    data = {"dataset_name": "d"}
    reply = http.post("/datasets/new", data=data, headers={"sec-fetch-site": "cross-site"})
    assert reply.status_code == 403
    assert http.get("/api/datasets").json() == []
