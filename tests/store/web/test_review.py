"""Pages to review traces: queues, forms, who may label, and how far reviewers agree."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from tests.store.requests import Make
from tests.store.web.looking import HOSTILE, look, post, text_of
from tests.store_fixtures import CATALOG
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database
from tuneloop.store.middleware.auth import new_token, parse_tokens
from tuneloop.store.routes import agreement
from tuneloop.store.web import review

SAME = {"Sec-Fetch-Site": "same-origin"}
Ids = list[str]


@pytest.fixture
def ids(http: TestClient, make_trace: Make) -> Ids:
    """Four traces, newest first."""
    sources = ["people", "model", "people", "people"]
    traces = [make_trace(n, meta={"source": source}) for n, source in enumerate(sources)]
    return post(http, *traces)[::-1]


def submit(http: TestClient, trace_id: str, value: str, **fields: str) -> Any:
    form = {"queue": "unlabeled", "label": "review", "who": "ada", "value": value, **fields}
    return http.post(f"/review/{trace_id}", data=form, headers=SAME, follow_redirects=False)


def shown(reply: Any) -> str:
    """Return the id of the trace that a page of the review shows."""
    found = re.search(r'<form id="verdict" action="/review/([0-9a-f-]{36})"', reply.text)
    assert found, reply.text
    return found[1]


def labels(http: TestClient) -> list[tuple[str, str, Any, str]]:
    rows = http.get("/api/labels").json()["data"]
    return [(row["trace_id"], row["who"], row["value"], row["reason"]) for row in rows]


def test_a_reviewer_goes_through_the_queue_once(http: TestClient, ids: Ids) -> None:
    page = http.get("/review/next?queue=unlabeled&who=ada")
    seen = []
    for value in ("accept", "reject", "skip"):
        seen.append(shown(page))
        page = http.get(submit(http, seen[-1], value, reason=" so\r\nso ").headers["location"])
    assert [*seen, shown(page)] == ids
    assert "In the queue 1" in text_of(page.text)
    assert "You have reached the oldest trace" in http.get(_href(page.text, "next")).text
    assert [row[1:] for row in labels(http)] == [
        ("ada", value, "so\nso") for value in ("accept", "reject", "skip")
    ]
    again = http.get("/review/next?queue=unlabeled&who=ada")
    assert shown(again) == ids[3]
    assert shown(http.get("/review/next?queue=unlabeled&who=bob")) == ids[0]
    # The trace before it has left the queue, and can still be corrected.
    back = http.get(_href(again.text, "previous"))
    assert shown(back) == ids[2]
    assert "Your labels review skip ada" in text_of(back.text)
    submit(http, ids[2], "accept")
    assert labels(http)[-1] == (ids[2], "ada", "accept", "")


def _href(page: str, name: str) -> str:
    found = re.search(rf'<a id="{name}" href="([^"]*)"', page)
    assert found
    return html.unescape(found[1])


def test_a_queue_can_be_of_one_source(http: TestClient, ids: Ids) -> None:
    page = http.get("/review/next?queue=all&who=ada&source=people")
    seen = [shown(page)]
    for _ in range(2):
        page = http.get(_href(page.text, "next"))
        seen.append(shown(page))
    assert seen == [ids[0], ids[1], ids[3]]
    assert shown(http.get(_href(page.text, "previous"))) == ids[1]
    assert 'id="previous"' not in http.get(f"/review/{ids[0]}?queue=all&who=ada").text
    nothing = http.get("/review/next?who=ada&source=nobody")
    assert "No trace is in this queue" in text_of(nothing.text)


def test_disagreement_shows_the_labels_of_all(http: TestClient, ids: Ids) -> None:
    for who, values in (("ada", "aaaa"), ("bob", "rsaa"), ("eve", "ar")):
        for trace_id, letter in zip(ids, values, strict=False):
            value = {"a": "accept", "r": "reject", "s": "skip"}[letter]
            submit(http, trace_id, value, who=who, reason=f"{who} thinks so")
    page = http.get("/review/next?queue=disagreement&who=ada")
    assert (shown(page), "In the queue 2" in text_of(page.text)) == (ids[0], True)
    assert "bob thinks so" in page.text
    assert shown(http.get(_href(page.text, "next"))) == ids[1]
    hidden = http.get(f"/review/{ids[0]}?queue=unlabeled&who=new")
    assert "thinks so" not in hidden.text
    # A reviewer who changes the mind ends the disagreement; the newest label counts.
    submit(http, ids[0], "accept", who="bob")
    assert shown(http.get("/review/next?queue=disagreement&who=ada")) == ids[1]


def test_without_tokens_a_name_is_needed(http: TestClient, ids: Ids) -> None:
    page = http.get(f"/review/{ids[1]}?queue=all")
    assert "Enter your name to review the trace" in page.text
    assert parse_qs(urlsplit(str(page.url)).query)["trace"] == [ids[1]]
    assert shown(http.get(f"/review/next?who=ada&trace={ids[1]}")) == ids[1]
    for who in ("", " ", "a\nb", "x" * 129):
        assert http.get("/review/next", params={"who": who}).status_code == 422
        assert submit(http, ids[0], "accept", who=who).status_code == 422
    assert labels(http) == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none", "Origin": "http://testserver"},
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://testserver:81"},
    ],
)
def test_a_form_of_another_site_is_refused(
    http: TestClient, ids: Ids, headers: dict[str, str]
) -> None:
    form = {"queue": "all", "label": "review", "who": "ada", "value": "accept"}
    reply = http.post(f"/review/{ids[0]}", data=form, headers=headers, follow_redirects=False)
    assert (reply.status_code, "not sent by a page of this store" in reply.text) == (403, True)
    assert labels(http) == []
    good = {"Origin": "http://testserver"}
    reply = http.post(f"/review/{ids[0]}", data=form, headers=good, follow_redirects=False)
    assert (reply.status_code, len(labels(http))) == (303, 1)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"value": "maybe"}, 422),
        ({"value": ""}, 422),
        ({"reason": "x" * 2001}, 422),
        ({"reason": "a\x00b"}, 422),
        ({"queue": "other"}, 422),
        ({"label": "two words"}, 422),
    ],
)
def test_what_is_no_form_is_refused(
    http: TestClient, ids: Ids, fields: dict[str, str], status: int
) -> None:
    assert submit(http, ids[0], **{"value": "accept", **fields}).status_code == status
    raw = {**SAME, "Content-Type": "application/x-www-form-urlencoded"}
    for body in (b"value=%ff%fe", b"\xff", b"&".join([b"a=1"] * 30)):
        assert http.post(f"/review/{ids[0]}", content=body, headers=raw).status_code == 400
    big = http.post(f"/review/{ids[0]}", content=b"a" * 70_000, headers=raw)
    assert big.status_code == 413
    nowhere = "00000000-0000-4000-8000-000000000000"
    assert submit(http, nowhere, "accept").status_code == 404
    assert submit(http, "nowhere", "accept").status_code == 404
    assert labels(http) == []


def test_any_text_is_text(http: TestClient, make_trace: Make) -> None:
    (trace_id,) = post(http, make_trace(prompt=HOSTILE, meta={"source": HOSTILE}))
    for value in ("accept", "reject"):
        reply = submit(
            http, trace_id, value, who=HOSTILE[:128], reason=HOSTILE, source=HOSTILE, queue="all"
        )
        assert reply.status_code == 303
    body = {"value": HOSTILE, "who": "b", "name": "review"}
    assert http.post(f"/api/traces/{trace_id}/labels", json=body).status_code == 201
    look(http, "/review")
    look(http, f"/traces/{trace_id}")
    page = http.get("/review/next", params={"who": HOSTILE[:128], "queue": "disagreement"})
    assert html.escape(HOSTILE) in page.text
    assert HOSTILE not in page.text


def test_invisible_characters_of_a_trace_are_named(http: TestClient, make_trace: Make) -> None:
    emoji = "\U0001f469\u200d\U0001f680"
    trace = make_trace(prompt="\u202eexe.txt\u200b\u202e", final_answer=f"שלום\xa0{emoji}")
    (trace_id,) = post(http, trace)
    for path in (f"/review/{trace_id}?who=ada", f"/traces/{trace_id}"):
        said = text_of(look(http, path))
        assert said.count("with invisible characters") == 1
        assert "with invisible characters: U+202E, U+200B Steps" in said


def test_tokens_name_reviewers_and_only_writers_label(
    database: Database, artifacts: Path, make_trace: Make
) -> None:
    made = {role: new_token(f"{role}er", role) for role in ("read", "write")}
    tokens = parse_tokens("\n".join(line for _, line in made.values()), "tokens")
    app = create_app(database, str(artifacts), CATALOG, tokens=tokens)
    with TestClient(app) as http:
        bearer = {"Authorization": f"Bearer {made['write'][0]}"}
        reply = http.post("/api/traces", json=make_trace(), headers=bearer)
        trace_id = reply.json()["id"]
        form = {"queue": "all", "label": "review", "who": "someone", "value": "accept"}
        path = f"/review/{trace_id}"
        assert http.post(path, data=form, headers=SAME).status_code == 401
        for role, status in (("read", 403), ("write", 303)):
            basic = ("anyone", made[role][0])
            page = http.get(f"{path}?queue=all", auth=basic)
            assert ("Your token can only read" in page.text) == (role == "read")
            other = http.post(path, data=form, auth=basic, headers={"Sec-Fetch-Site": "cross-site"})
            assert other.status_code == 401
            sent = http.post(path, data=form, auth=basic, headers=SAME, follow_redirects=False)
            assert sent.status_code == status
            # The API takes no password that a browser adds by itself.
            api = f"/api/traces/{trace_id}/labels"
            assert http.post(api, json={"value": 1}, auth=basic, headers=SAME).status_code == 401
        rows = http.get("/api/labels", headers=bearer).json()["data"]
        assert [(row["who"], row["value"]) for row in rows] == [("writeer", "accept")]


def test_the_agreement_is_shown_on_the_page_and_by_the_api(
    http: TestClient, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No trace has the label review yet" in text_of(look(http, "/review"))
    ids = post(http, *(make_trace(n) for n in range(10)))
    submit(http, ids[0], "accept")
    assert "No trace has labels of two reviewers yet" in text_of(look(http, "/review"))
    for who, values in (("ada", "aaaaaarrrr"), ("bob", "aaaarrrrra"), ("eve", "aaaarrrrras"[:10])):
        for trace_id, letter in zip(ids, values, strict=True):
            submit(http, trace_id, {"a": "accept", "r": "reject"}[letter], who=who)
    submit(http, ids[0], "skip", who="eve")
    said = text_of(look(http, "/review"))
    assert "ada 6 4 0 10" in said
    assert "eve 4 5 1 10" in said
    assert "bob and eve 9 100.0 % 1.00" in said
    found = http.get("/api/labels/agreement?name=review").json()
    pair = found["pairs"][0]
    assert (pair["first"], pair["second"], pair["traces"], pair["same"]) == ("ada", "bob", 10, 7)
    # 2 x 3 of 20 labels in a row differ; by chance 2 x 11 x 9 / 19 would.
    assert pair["alpha"] == pytest.approx(1 - 6 / (2 * 11 * 9 / 19))
    assert f"ada and bob 10 70.0 % {pair['alpha']:.2f}" in said
    assert found["group"]["traces"] == 10
    assert (
        "All 3 reviewers on 10 traces with labels of at least two of them: alpha"
        f" {found['group']['alpha']:.2f}" in said
    )
    assert http.get("/api/labels/agreement?name=other").json() == {
        "pairs": [],
        "group": None,
        "is_cut": False,
    }
    for module in (agreement, review):
        monkeypatch.setattr(module, "COMPARED_LABELS", 5)
    assert "of the newest 5 labels" in text_of(look(http, "/review"))


def test_odd_addresses(http: TestClient, ids: Ids) -> None:
    for path, status in (
        ("/review/nowhere?who=a", 404),
        ("/review/00000000-0000-4000-8000-000000000000?who=a", 404),
        ("/review/next?who=a&before=nonsense", 422),
        ("/review/next?who=a&queue=other", 422),
        ("/review/next?who=a&trace=nowhere", 404),
        ("/review/next?who=a&label=%20", 422),
        ("/review/next?who=a&label=review%0A", 422),
        ("/review?label=%3Cscript%3E&queue=x&source=%00", 422),
        ("/review?label=%3Cscript%3E&queue=x", 200),
    ):
        look(http, path, status)
