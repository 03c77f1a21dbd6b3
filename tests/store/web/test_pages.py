"""Web pages of traces and datasets: their content, and what they must not show."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient

from tests.builders import letter_trace, publish_dataset
from tests.store.requests import Make
from tests.store.web.looking import HOSTILE, is_page, look, post, text_of
from tuneloop.storage import files
from tuneloop.store.db.search import Budget
from tuneloop.store.web import pages, render


def test_an_empty_store_says_what_to_do(http: TestClient, artifacts: Path) -> None:
    assert "tuneloop traces import FILE.jsonl" in text_of(look(http, "/"))
    assert "tuneloop traces import FILE.jsonl" in text_of(look(http, "/traces"))
    assert "tuneloop datasets build NAME VERSION" in text_of(look(http, "/datasets"))
    assert "tuneloop run RUN.yaml" in text_of(look(http, "/runs"))
    assert not artifacts.exists()  # Pages are read-only.


def test_overview_shows_the_newest(http: TestClient, run_id: str, make_trace: Make) -> None:
    post(http, *(make_trace(number) for number in range(900)))
    post(http, *(make_trace(number) for number in range(900, 1200)))
    said = text_of(look(http, "/"))
    assert "Traces 1,200" in said
    assert "What is 1199 + 1?" in said
    assert "What is 1190 + 1?" not in said
    assert "Datasets 1" in said
    assert (
        f"Runs 1 The newest runs Run State Dataset Loss Accuracy Last stage started {run_id}"
        in said
    )
    assert "finished letters-v1 6.25 → 0.592 5.6 % → 72.2 % 2026-11-22 11:23:33 UTC" in said


def test_a_trace_in_full(http: TestClient, make_trace: Make) -> None:
    steps = [
        {"i": 9, "type": "check", "content": "last"},
        {"i": 2, "type": "plan", "content": "first\n  indented"},
    ]
    (trace_id,) = post(http, make_trace(steps=steps, meta={"source": "people", "b": {"ä": 1}}))
    http.post(f"/api/traces/{trace_id}/score")
    page = look(http, f"/traces/{trace_id}")
    said = text_of(page)
    assert "Prompt What is 0 + 1? Steps 2 2 plan first indented 9 check last Final answer 1" in said
    assert "Version 1.0" in said
    assert re.search(r"Scores baseline \d+\.\d", said)
    assert "first\n  indented</div>" in page
    assert html.escape('"ä": 1') in page.replace("&#34;", "&quot;")
    link = http.get(re.search(r'href="(/traces/[^"]+/trace.json)"', page)[1])  # type: ignore[index]
    assert link.json() == http.get(f"/api/traces/{trace_id}").json()
    assert link.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, html.escape(HOSTILE)),
        ("כמה זה 2 + 2?", "כמה זה 2 + 2?"),
        ("👩🏽‍🚀 and 🟡", "👩🏽‍🚀 and 🟡"),
        ("x" * 20_000, "x" * 20_000),
        ("<start_of_turn>user\n<end_of_turn>", "&lt;start_of_turn&gt;user\n&lt;end_of_turn&gt;"),
        ("\x1b[31mred\x7f\x01", "␛[31mred␡␁"),
        ("a\u202eb\u2066c", "a\u202eb\u2066c"),
        ("{{ 7 * 7 }}{% raw %}", "{{ 7 * 7 }}{% raw %}"),
        ("\n\nstarts blank", "\n\nstarts blank"),
        ("&lt;b&gt; &amp;", "&amp;lt;b&amp;gt; &amp;amp;"),
    ],
)
def test_any_text_is_text(http: TestClient, make_trace: Make, text: str, shown: str) -> None:
    steps = [{"i": 0, "type": text[:60].strip() or "t", "content": text}]
    meta = {"source": text[:900], text[:99]: [text]}
    (trace_id,) = post(http, make_trace(prompt=text, steps=steps, final_answer=text, meta=meta))
    page = look(http, f"/traces/{trace_id}")
    assert page.count(f'dir="auto">{shown}</div>'.replace("'", "&#39;")) == 3
    for path in ("/", "/traces", f"/traces?{urlencode({'q': text[:40]})}"):
        look(http, path)
    look(http, f"/traces?{urlencode({'source': text[:900]})}")


def test_what_cannot_be_seen_is_said(http: TestClient, make_trace: Make) -> None:
    (trace_id,) = post(http, make_trace(prompt="\u200b \n"))
    assert "Prompt 3 invisible characters" in text_of(look(http, f"/traces/{trace_id}"))
    assert ">(blank)</a>" in look(http, "/traces")


def test_a_trace_of_megabytes_is_cut_and_says_so(http: TestClient, make_trace: Make) -> None:
    steps = [{"i": i, "type": "reason", "content": f"{i}" + "x" * 19_990} for i in range(60)]
    (trace_id,) = post(http, make_trace(steps=steps))
    page = look(http, f"/traces/{trace_id}")
    assert len(page) < 1_100_000
    assert "10 more steps are omitted because the trace is too long for this page" in text_of(page)


NOWHERE = (
    "/traces/00000000-0000-4000-8000-000000000000",
    "/traces/nowhere",
    "/traces/%ED%A0%80",
    "/traces/" + "9" * 5000,
    "/traces/..%2f..%2fapi",
    "/traces/%2e%2e",
    "/traces/%00",
    "/traces/nowhere/trace.json",
    "/traces/x/y",
    "/datasets/nowhere",
    "/datasets/%2e%2e",
    "/datasets/..%2f..%2fstore.db",
    "/datasets/nowhere/export.jsonl",
    "/datasets/" + "k" * 300,
    "/runs/nowhere",
    "/runs/%2e%2e",
    "/runs/..%2fdatasets",
    "/runs/..%5c..",
    "/runs/%00",
    "/runs/" + "r" * 300,
)


def test_nothing_there_is_a_page(http: TestClient, run_id: str) -> None:
    for path in NOWHERE:
        assert "<h1>Not found</h1>" in look(http, path, 404), path


@pytest.mark.parametrize(
    "query",
    ["cursor=nonsense", "cursor=", "cursor=1", "cursor=99999999999999999999-1", "q=" + "q" * 1001],
)
def test_a_query_that_makes_no_sense_is_a_page(http: TestClient, query: str) -> None:
    assert "<h1>Invalid request</h1>" in look(http, f"/traces?{query}", 422)


def test_the_api_still_answers_in_json(http: TestClient) -> None:
    assert http.get("/api/traces/nowhere").json()["detail"][0]["loc"] == ["path", "trace_id"]
    assert http.get("/api/nowhere").json() == {"detail": "Not Found"}
    assert http.get("/nowhere").json() == {"detail": "Not Found"}
    paths = http.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if render.is_page(path)]


def test_pages_answer_head_and_nothing_that_changes(http: TestClient, run_id: str) -> None:
    for path in ("/", "/traces", "/datasets", "/datasets/letters-v1", "/runs", f"/runs/{run_id}"):
        assert http.head(path).status_code == 200
        assert http.post(path).status_code == 403  # Not even a page of this store sent it.
        refused = http.post(path, headers={"Sec-Fetch-Site": "same-origin"})
        assert refused.status_code == 405
        is_page(refused)


def test_a_full_page_leads_to_the_next(http: TestClient, make_trace: Make) -> None:
    post(http, *(make_trace(n) for n in range(120)))
    path, seen = "/traces", []
    while path:
        page = look(http, path)
        seen += re.findall(r"What is (\d+) \+ 1\?</a>", page)
        link = re.search(r'href="([^"]*)" rel="next">Older</a>', page)
        path = html.unescape(link[1]) if link else ""
    assert seen == [str(n) for n in reversed(range(120))]


def test_a_page_says_how_far_it_looked(
    http: TestClient, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "BUDGET", Budget(3, 60))
    post(http, make_trace(0, prompt="a needle"), *(make_trace(n) for n in range(1, 5)))
    page = look(http, "/traces?q=NEEDLE&source=")
    assert "So far, no trace contains “NEEDLE” ." in text_of(page)
    assert "Searched the newest 3 traces." in text_of(page)
    link = re.search(r'href="([^"]*)" rel="next">Search older traces</a>', page)
    assert link is not None
    older = text_of(look(http, html.unescape(link[1])))
    assert "a needle" in older
    assert "Searched the next 2 traces, down to the oldest." in older
    monkeypatch.setattr(pages, "BUDGET", Budget(5, 60))
    assert "which are all traces" in text_of(look(http, "/traces?q=What+is+4"))


def test_a_match_is_marked_where_it_stands(http: TestClient, make_trace: Make) -> None:
    content = "<b>" * 30 + "Straße" + "y" * 100
    post(http, make_trace(steps=[{"i": 3, "type": "t", "content": content}]))
    page = look(http, "/traces?q=STRASSE")
    assert '<span class="label">step 3</span>' in page
    assert "&lt;b&gt;<mark>Straße</mark>yyy" in page
    assert "W<mark>hat i</mark>s 0 + 1?</a>" in look(http, "/traces?q=HAT+I")


def test_a_dataset(http: TestClient, artifacts: Path, make_trace: Make) -> None:
    post(http, *(make_trace(n) for n in range(30)), make_trace(prompt=HOSTILE))
    request = {"dataset_name": "sums", "dataset_version": "v1", "instruction": "<i>", "seed": 7}
    built = http.post("/api/datasets/build", json=request).json()
    page = look(http, "/datasets/sums-v1")
    said = text_of(page)
    for part in (
        "Traces 31",
        "Recipe trace_sft_v1",
        "Seed 7",
        "Selection latest, at most 100",
        "Steps per trace 1 to 1, 1.0 on average",
        "Instruction <i>",
        f"Build id {built['build_id']}",
        "The first 20 of 31 traces",
        "traces-00000-of-00001.jsonl",
    ):
        assert part in said
    assert "What is 12 + 1?" in said
    assert "What is 9 + 1?" not in said
    (shard,) = http.get("/api/datasets/sums-v1").json()["shards"]
    assert shard["sha256"] in page
    links = re.findall(r'href="(/datasets/[^"]*)"', page.split("<main")[1])
    assert links == [f"/datasets/sums-v1/export.jsonl?format={name}" for name in ("ids", "trace")]
    for link in links:
        exported = http.get(link)
        assert exported.content == http.get(f"/api{link}").content
        assert exported.headers["x-content-type-options"] == "nosniff"
    assert "sums-v1 31 trace_sft_v1 latest" in text_of(look(http, "/datasets"))
    assert "<h1>Invalid request</h1>" in look(http, "/datasets/sums-v1/export.jsonl?format=x", 422)


def test_a_preview_reads_only_the_beginning(
    http: TestClient, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = [{**letter_trace(n), "final_answer": "x" * 50_000} for n in range(100)]
    key = publish_dataset(str(artifacts), big)
    blocks = []
    original = files.iter_blocks

    def counted(url: str) -> Iterator[bytes]:
        for block in original(url):
            blocks.append(len(block))
            yield block

    monkeypatch.setattr(files, "iter_blocks", counted)
    assert "The first 20 of 100" in text_of(look(http, f"/datasets/{key}"))
    assert sum(blocks) <= 2 << 20


def test_damaged_datasets_are_sentences(http: TestClient, artifacts: Path) -> None:
    key = publish_dataset(str(artifacts), [letter_trace(n) for n in range(3)])
    (shard,) = (artifacts / "datasets" / key).glob("attempts/*/*.jsonl")
    shard.write_text("<b>torn")
    said = text_of(look(http, f"/datasets/{key}"))
    assert "holds 7 bytes, expected" in said
    shard.unlink()
    assert "missing, but a record names it" in text_of(look(http, f"/datasets/{key}"))
    (artifacts / "datasets" / key / "manifest.json").write_text("{}")
    (artifacts / "datasets" / "unfinished").mkdir()
    (artifacts / "datasets" / "<b>").mkdir()
    for path in (f"/datasets/{key}", "/datasets", "/"):
        page = look(http, path)
        assert f"datasets/{key}/manifest.json: " in text_of(page) or path == "/"
        assert str(artifacts) not in page
        assert "unfinished" not in page


def test_an_artifact_store_that_is_away_leaves_the_traces(
    http: TestClient, artifacts: Path, make_trace: Make
) -> None:
    post(http, make_trace())
    artifacts.write_text("a file, not a folder")
    assert "What is 0 + 1?" in text_of(look(http, "/"))
    for path in ("/datasets", "/runs"):
        reply = http.get(path)
        assert reply.status_code in (200, 503)
        is_page(reply)
        assert str(artifacts) not in reply.text
