"""Pages: what they say, what they never say, and who may see them."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from tests.builders import letter_trace, publish_dataset
from tests.finished_run import publish_run, torn
from tests.store_fixtures import CATALOG
from tuneloop.artifacts import layout
from tuneloop.storage import files
from tuneloop.store.app import create_app
from tuneloop.store.db import search
from tuneloop.store.db.codec import new_trace
from tuneloop.store.db.database import Database
from tuneloop.store.db.search import Budget
from tuneloop.store.middleware import auth
from tuneloop.store.middleware.auth import new_token, parse_tokens
from tuneloop.store.web import pages, render, run_pages, stored_runs
from tuneloop.traces.schema import ReasoningTrace

Make = Callable[..., dict[str, Any]]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def look(http: TestClient, path: str, status: int = 200) -> str:
    """The page at a path, and that it is one."""
    reply = http.get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (
        status,
        "text/html; charset=utf-8",
    )
    is_page(reply)
    return reply.text


def is_page(reply: Response) -> None:
    policy = reply.headers["content-security-policy"]
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/]{43}='; form-action 'self';"
        r" frame-ancestors 'none'; base-uri 'none'",
        policy,
    )
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "same-origin"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.text.startswith("<!DOCTYPE html>")
    assert len(re.findall("<h1", reply.text)) == 1
    for never in ("<script", "<img", "<link", "<iframe", " style=", " onclick", "javascript:alert"):
        assert never not in re.sub(r"<code.*?</code>", "", reply.text, flags=re.S), never


def text_of(page: str) -> str:
    body = page.split("<main", 1)[1].split("</main>")[0]
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", body)).split())


def post(http: TestClient, *traces: dict[str, Any]) -> list[str]:
    reply = http.post("/api/traces/batch", json=list(traces))
    assert reply.status_code == 201
    return [trace["id"] for trace in reply.json()["traces"]]


@pytest.fixture
def run_id(artifacts: Path) -> str:
    """A finished run of a dataset of 104 traces."""
    key = publish_dataset(str(artifacts), [letter_trace(number) for number in range(104)])
    publish_run(str(artifacts), key)
    return "letters-7c1aa298"


def test_an_empty_store_says_what_to_do(http: TestClient, artifacts: Path) -> None:
    assert "tuneloop traces import FILE.jsonl" in text_of(look(http, "/"))
    assert "tuneloop traces import FILE.jsonl" in text_of(look(http, "/traces"))
    assert "tuneloop datasets build NAME VERSION" in text_of(look(http, "/datasets"))
    assert "tuneloop run RUN.yaml" in text_of(look(http, "/runs"))
    assert not artifacts.exists()  # a page only looks


def test_overview_shows_the_newest(http: TestClient, run_id: str, make_trace: Make) -> None:
    post(http, *(make_trace(number) for number in range(900)))
    post(http, *(make_trace(number) for number in range(900, 1200)))
    said = text_of(look(http, "/"))
    assert "Traces 1,200" in said
    assert "What is 1199 + 1?" in said
    assert "What is 1190 + 1?" not in said
    assert "Datasets 1" in said
    assert (
        f"Runs 1 The newest runs Run State Dataset Loss Accuracy Last stage began {run_id}" in said
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
    assert re.search(r"Scores \d+\.\d", said)
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
    assert "Prompt 3 characters that cannot be seen" in text_of(look(http, f"/traces/{trace_id}"))
    assert ">(blank)</a>" in look(http, "/traces")


def test_a_trace_of_megabytes_is_cut_and_says_so(http: TestClient, make_trace: Make) -> None:
    steps = [{"i": i, "type": "reason", "content": f"{i}" + "x" * 19_990} for i in range(60)]
    (trace_id,) = post(http, make_trace(steps=steps))
    page = look(http, f"/traces/{trace_id}")
    assert len(page) < 1_100_000
    assert "10 more steps are too long for this page" in text_of(page)


@pytest.mark.parametrize(
    "path",
    [
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
    ],
)
def test_nothing_there_is_a_page(http: TestClient, run_id: str, path: str) -> None:
    assert "<h1>Not found</h1>" in look(http, path, 404)


@pytest.mark.parametrize("name", ["..", ".", "../datasets", "a/b", "", "\x00", "é", "r" * 201])
def test_no_run_id_leads_out_of_the_folder(http: TestClient, run_id: str, name: str) -> None:
    service = http.app.state.service  # type: ignore[attr-defined]
    assert stored_runs.find_run(service, name) is None


@pytest.mark.parametrize(
    "query",
    ["cursor=nonsense", "cursor=", "cursor=1", "cursor=99999999999999999999-1", "q=" + "q" * 1001],
)
def test_a_query_that_makes_no_sense_is_a_page(http: TestClient, query: str) -> None:
    assert "<h1>Not understood</h1>" in look(http, f"/traces?{query}", 422)


def test_the_api_still_answers_in_json(http: TestClient) -> None:
    assert http.get("/api/traces/nowhere").json()["detail"][0]["loc"] == ["path", "trace_id"]
    assert http.get("/api/nowhere").json() == {"detail": "Not Found"}
    assert http.get("/nowhere").json() == {"detail": "Not Found"}
    paths = http.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if render.is_page(path)]


def test_pages_answer_head_and_nothing_that_changes(http: TestClient, run_id: str) -> None:
    for path in ("/", "/traces", "/datasets", "/datasets/letters-v1", "/runs", f"/runs/{run_id}"):
        assert http.head(path).status_code == 200
        refused = http.post(path)
        assert refused.status_code == 405
        is_page(refused)


# Search


def find(database: Database, text: str, **options: Any) -> list[str]:
    budget = options.pop("budget", Budget(10_000, 60))
    return [hit.prompt for hit in database.search(text, limit=50, budget=budget, **options).hits]


def put(database: Database, *traces: dict[str, Any]) -> list[str]:
    batch = [new_trace(ReasoningTrace.model_validate(trace)) for trace in traces]
    return [
        stored.id for stored in database.insert_batch(batch, now=datetime(2026, 11, 22, tzinfo=UTC))
    ]


@pytest.mark.parametrize(
    ("needle", "text"),
    [
        ("STRASSE", "die Straße entlang"),
        ("straße", "DIE STRASSE"),
        ("ß", "ss"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("i̇", "İ"),
        ('say "no"', 'they SAY "NO" twice'),
        ("back\\slash", "a BACK\\SLASH"),
        ("two\nlines", "of TWO\nLINES"),
        ("מה", "כמה זה"),
        ("🟡", "a 🟡 b"),
        ("%", "100 %"),
        ("_", "a_b"),
        ("<b>", "<B>"),
    ],
)
@pytest.mark.parametrize("field", ["prompt", "final_answer", "step"])
def test_search_finds_a_text_whatever_its_case(
    database: Database, make_trace: Make, needle: str, text: str, field: str
) -> None:
    fields = {field: text}
    if field == "step":
        fields = {"steps": [{"i": 4, "type": "t", "content": text}]}  # type: ignore[dict-item]
    put(database, make_trace(1), make_trace(2, **fields), make_trace(3))
    (hit,) = database.search(needle, limit=50, budget=Budget(100, 60)).hits
    assert hit.match is not None
    assert hit.match.field == {"final_answer": "final answer", "step": "step 4"}.get(field, field)
    assert hit.match.text.casefold() == needle.casefold() or needle == "ß"
    assert f"{hit.match.before}{hit.match.text}{hit.match.after}" == text


def test_search_looks_at_nothing_else(database: Database, make_trace: Make) -> None:
    steps = [{"i": 0, "type": "needle", "content": "add one"}]
    put(database, make_trace(meta={"needle": "needle"}, steps=steps, trace_version="needle"))
    assert find(database, "needle") == []
    assert find(database, "prompt") == []
    assert find(database, "") == ["What is 0 + 1?"]


def test_search_by_source_is_exact(database: Database, make_trace: Make) -> None:
    sources = ["a", "A", 'quo"ted', 1, None, {"source": "a"}, ["a"]]
    put(
        database,
        *(make_trace(n, meta={"source": s, "x": {"source": "a"}}) for n, s in enumerate(sources)),
    )
    put(database, make_trace(99, meta=None), make_trace(98, prompt='"source":"a"', meta={}))
    assert find(database, "", source="a") == ["What is 0 + 1?"]
    assert find(database, "", source='quo"ted') == ["What is 2 + 1?"]
    assert find(database, "what IS", source="A") == ["What is 1 + 1?"]


def test_an_id_finds_its_trace_first_however_old(database: Database, make_trace: Make) -> None:
    (old,) = put(database, make_trace(0))
    put(database, *(make_trace(n) for n in range(1, 30)), make_trace(30, prompt=f"see {old}"))
    assert find(database, old.upper(), budget=Budget(5, 60)) == [
        "What is 0 + 1?",
        f"see {old}",
    ]
    assert find(database, old[:-1]) == [f"see {old}"]


def test_a_search_goes_on_where_it_stopped(
    database: Database, make_trace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuneloop.store.db.database.SEARCH_WINDOW_ROWS", 7)
    put(database, *(make_trace(n) for n in range(40)))
    seen, before, rounds = [], None, 0
    while True:
        found = database.search("9 +", limit=2, before=before, budget=Budget(11, 60))
        seen += [hit.prompt for hit in found.hits]
        before, rounds = found.next, rounds + 1
        assert found.looked_at <= 11
        if before is None:
            break
        put(database, make_trace(1000 + rounds, prompt="19 + newer"))
    assert seen == [f"What is {n} + 1?" for n in (39, 29, 19, 9)]
    assert database.search("", limit=100, budget=Budget(10_000, 60)).next is None


def test_time_ends_a_search_too(database: Database, make_trace: Make) -> None:
    put(database, *(make_trace(n) for n in range(5)))
    found = database.search("nothing", limit=2, budget=Budget(100, 0.0))
    assert (found.looked_at, found.next is None) == (1, False)


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
    assert "Nothing so far holds “NEEDLE” ." in text_of(page)
    assert "Looked through the newest 3 traces." in text_of(page)
    link = re.search(r'href="([^"]*)" rel="next">Search older traces</a>', page)
    assert link is not None
    older = text_of(look(http, html.unescape(link[1])))
    assert "a needle" in older
    assert "Looked through the next 2 traces: down to the oldest." in older
    monkeypatch.setattr(pages, "BUDGET", Budget(5, 60))
    assert "all there are" in text_of(look(http, "/traces?q=What+is+4"))


def test_a_match_is_marked_where_it_stands(http: TestClient, make_trace: Make) -> None:
    content = "<b>" * 30 + "Straße" + "y" * 100
    post(http, make_trace(steps=[{"i": 3, "type": "t", "content": content}]))
    page = look(http, "/traces?q=STRASSE")
    assert '<span class="label">step 3</span>' in page
    assert "&lt;b&gt;<mark>Straße</mark>yyy" in page
    assert "W<mark>hat i</mark>s 0 + 1?</a>" in look(http, "/traces?q=HAT+I")


# Datasets


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
        "Steps a trace 1 to 1, 1.0 on average",
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
    assert "<h1>Not understood</h1>" in look(http, "/datasets/sums-v1/export.jsonl?format=x", 422)


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


# Runs


def test_a_run(http: TestClient, artifacts: Path, run_id: str) -> None:
    page = look(http, f"/runs/{run_id}")
    said = text_of(page)
    for part in (
        "State finished Accuracy 5.6 % → 72.2 % Verdict improved Dataset letters-v1 , 104 traces",
        "Planned from commit 2e84a5bb4504 , with changes",
        "train done 3 min 20 s examples 104 parameters 7,520 steps 50 tokens 57,460",
        "Loss 6.25 → 0.592",
        "Loss by step: 6.25 at step 1, 0.592 at step 50; lowest 0.431 at step 48.",
        "Delta report: improved",
        '"eval_set": "letters_v1.jsonl"',
    ):
        assert part in said
    assert str(artifacts) not in page
    assert page.count("<polyline points=") == 1
    assert "<h2 dir" not in page and ">Delta report: improved</h2>" in page
    assert "<h3>By category</h3>" in page
    assert "<h2>One item in full" not in page
    assert run_id in text_of(look(http, "/runs"))


def test_what_a_model_wrote_is_no_markup() -> None:
    text = (
        "# A <b>report</b>\n\n<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>\n\n"
        "[a](https://example.org) ![b](data:image/png;base64,AA) <https://example.org>\n\n&lt;i&gt;\n\n"
        "| | |\n|---|--:|\n| `<i>\\|` | [x](javascript:alert(1)) |\n\n"
        "| a | b |\n|---|--:|\n| 1 | 2 |\n\n"
        "```text\n</code></pre><script>\n```\n\n```\n \n\n```\n\n"
        "[r]: https://example.org\n\n[r]\n\n###### six\n"
    )
    made = run_pages.render_report(text)
    assert "(2 characters that cannot be seen)" in made
    allowed = {"h2", "h6", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "div"}
    assert set(re.findall(r"</?([a-z0-9]+)", made)) == allowed
    assert "style=" not in made
    assert "href" not in made
    assert 'scope="col"' in made
    assert made.count("<thead>") == 1
    assert made.count('role="region" tabindex="0"') == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run_manifest.json", "", "run_manifest.json: Invalid JSON"),
        ("run_manifest.json", "[1]", "run_manifest.json: expected "),
        ("run_manifest.json", b"\xff\xfe\x00", "run_manifest.json: Invalid JSON"),
        ("run_manifest.json", "[" * 100_000, "run_manifest.json: Invalid JSON"),
        ("run_manifest.json", '{"run_id": "\\ud800"}', "run_manifest.json: Invalid JSON"),
        ("run_manifest.json", b"x" * (5 << 20), "holds 5242880 bytes, expected at most"),
        ("train/record.json", '{"run_id', "train/record.json: Invalid JSON"),
        ("train/record.json", "{}", "train/record.json: run_id is missing"),
        ("train/attempts/20261122T112233-064c19/metrics.jsonl", "{", "metrics.jsonl holds 1 bytes"),
        ("eval/attempts/20261122T112233-064c19/delta_report.md", "", "delta_report.md holds 0"),
    ],
)
def test_a_torn_file_is_a_sentence(
    http: TestClient, artifacts: Path, run_id: str, name: str, content: Any, said: str
) -> None:
    torn(str(artifacts), run_id, name, content)
    for path in (f"/runs/{run_id}", "/runs", "/"):
        page = look(http, path)
        assert str(artifacts) not in page
    assert said in text_of(look(http, f"/runs/{run_id}"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seconds": float("nan"), "started_at": "yesterday"}, "unknown"),
        ({"started_at": "0001-01-01T00:00:00+14:00"}, "finished"),
        ({"results": {"loss_first": "<b>", "loss_last": [1], "accuracy_base": True}}, "finished"),
        ({"counts": {"<b>": 3}}, "<b> 3"),
        ({"run_id": "other-1"}, "it is another stage's or run's"),
        ({"stage": "eval"}, "it is another stage's or run's"),
    ],
)
def test_a_foreign_record_is_shown_or_a_sentence(
    http: TestClient, artifacts: Path, run_id: str, change: dict[str, Any], said: str
) -> None:
    url = layout.record_url(str(artifacts), run_id, "train")
    record = {**json.loads(files.read(url)), **change}
    torn(str(artifacts), run_id, "train/record.json", record)
    assert said in text_of(look(http, f"/runs/{run_id}"))
    look(http, "/runs")


def test_same_file_size_other_bytes_is_found_out(
    http: TestClient, artifacts: Path, run_id: str
) -> None:
    folder = artifacts / "training_runs" / run_id
    for name in (
        "train/attempts/20261122T112233-064c19/metrics.jsonl",
        "eval/attempts/20261122T112233-064c19/delta_report.md",
    ):
        file = folder / name
        file.write_bytes(b" " * file.stat().st_size)
    said = text_of(look(http, f"/runs/{run_id}"))
    assert said.count("changed after it was recorded") == 2


def test_metrics_without_losses(http: TestClient, artifacts: Path) -> None:
    key = publish_dataset(str(artifacts), [letter_trace(0)])
    publish_run(str(artifacts), key, "odd-1", metrics=b'{"step":1}\n')
    publish_run(str(artifacts), key, "odd-2", metrics=b'{"loss":1.5}\n')
    publish_run(str(artifacts), key, "odd-3", metrics=b'{"loss":0.0}\n{"loss":-0.0}\n')
    assert "metrics.jsonl:1: found no loss" in text_of(look(http, "/runs/odd-1"))
    assert "Loss by step" not in text_of(look(http, "/runs/odd-2"))
    assert "lowest 0 at step 1" in text_of(look(http, "/runs/odd-3"))


def test_unfinished_runs(http: TestClient, artifacts: Path) -> None:
    key = publish_dataset(str(artifacts), [letter_trace(0)])
    now = "2099-01-01T00:00:00+00:00"
    beat = {"updated_at": now, "step": 12, "total": 50}
    publish_run(str(artifacts), key, "going-1", stages=["export"])
    torn(str(artifacts), "going-1", "train/progress.json", beat)
    publish_run(str(artifacts), key, "gone-1", stages=["export"])
    torn(
        str(artifacts),
        "gone-1",
        "train/progress.json",
        {**beat, "updated_at": "2020-01-01T00:00:00Z"},
    )
    publish_run(str(artifacts), key, "given-up-1", stages=["export"])
    verdict = {
        "state": "OutOfMemory",
        "cause": "<b>killed</b>",
        "fix": "Ask for more.",
        "evidence": [],
    }
    torn(str(artifacts), "given-up-1", "train/verdict.json", verdict)
    publish_run(str(artifacts), key, "odd-1", stages=["export"])
    torn(str(artifacts), "odd-1", "train/progress.json", "[]")
    (artifacts / "training_runs" / "empty").mkdir()
    torn(str(artifacts), "foreign", "notes/a.txt", "hello")
    assert "train running" in text_of(look(http, "/runs/going-1"))
    assert "Step 12 of 50." in text_of(look(http, "/runs/going-1"))
    assert "train stopped Step 12 of 50. Run the spec again" in text_of(look(http, "/runs/gone-1"))
    assert "OutOfMemory <b>killed</b>. Ask for more." in text_of(look(http, "/runs/given-up-1"))
    assert "train unreadable" in text_of(look(http, "/runs/odd-1"))
    assert "it is not a run of tuneloop" in text_of(look(http, "/runs/foreign"))
    look(http, "/runs/empty", 404)
    listed = text_of(look(http, "/runs"))
    assert "given-up-1 train OutOfMemory" in listed
    assert "empty" not in listed


def test_a_result_of_another_run_says_so(http: TestClient, artifacts: Path, run_id: str) -> None:
    url = layout.record_url(str(artifacts), run_id, "train")
    record = json.loads(files.read(url))
    publish_run(str(artifacts), "letters-v1", "again-1", stages=[])
    torn(str(artifacts), "again-1", "train/record.json", {**record, "run_id": "again-1"})
    assert "train reused 3 min 20 s" in text_of(look(http, "/runs/again-1"))


def test_very_many_runs_are_cut_and_said(
    http: TestClient, artifacts: Path, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_pages, "MAX_RUNS", 2)
    for number in range(3):
        publish_run(str(artifacts), "letters-v1", f"b-{number}", stages=[])
    assert "Of 4 runs, the first 2 by name." in text_of(look(http, "/runs"))


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


# Who may look


@pytest.fixture
def token() -> tuple[str, str]:
    return new_token("reader", "read")


@pytest.fixture
def guarded(database: Database, artifacts: Path, token: tuple[str, str]) -> Iterator[TestClient]:
    tokens = parse_tokens(token[1], "tokens")
    app = create_app(database, str(artifacts), CATALOG, tokens=tokens)
    with TestClient(app) as client:
        yield client


def basic(password: str, user: str = "me") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_a_browser_gives_the_token_as_a_password(
    guarded: TestClient, token: tuple[str, str]
) -> None:
    asked = guarded.get("/")
    assert asked.status_code == 401
    assert asked.headers["www-authenticate"] == 'Basic realm="tuneloop", charset="UTF-8"'
    is_page(asked)
    for user in ("me", "", "ü"):
        assert guarded.get("/", headers=basic(token[0], user)).status_code == 200
        assert guarded.head("/runs", headers=basic(token[0], user)).status_code == 200
    assert guarded.get("/", headers={"Authorization": f"Bearer {token[0]}"}).status_code == 200


def test_the_api_takes_no_password(guarded: TestClient, token: tuple[str, str]) -> None:
    for path in ("/api/traces", "/openapi.json", "/docs", "/nowhere", "/api/%2e%2e/traces"):
        refused = guarded.get(path, headers=basic(token[0]))
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json() == {"detail": "Unknown or missing token"}
    assert guarded.get("/traces/%2e%2e/api/traces", headers=basic(token[0])).status_code == 404
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        refused = guarded.request(method, "/traces", headers=basic(token[0]))
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
    refused = guarded.get("/", headers={"Authorization": header.encode()})
    assert refused.status_code == 401
    assert "wrong" not in refused.text


def test_guessing_passwords_is_slowed_down_and_asking_is_not(
    guarded: TestClient, token: tuple[str, str]
) -> None:
    assert [guarded.get("/").status_code for _ in range(2 * auth.FAILURES)] == [401] * 20
    assert guarded.get("/", headers=basic(token[0])).status_code == 200
    codes = [guarded.get("/", headers=basic("wrong")).status_code for _ in range(auth.FAILURES + 1)]
    assert codes == [401] * auth.FAILURES + [429]
    held = guarded.get("/", headers=basic(token[0]))
    assert held.status_code == 429
    assert held.headers["retry-after"]
    is_page(held)
    assert (
        guarded.get("/api/traces", headers={"Authorization": f"Bearer {token[0]}"}).status_code
        == 429
    )


# Small things


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0491, "0.05 s"),
        (18.63, "18.6 s"),
        (200.4, "3 min 20 s"),
        (7530, "2 h 05 min"),
        (float("nan"), "unknown"),
        (float("inf"), "unknown"),
        (-1, "unknown"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert render.duration(seconds) == said


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (33_144, "33.1 kB"),
        (999_999, "1.0 MB"),
        (12 * 10**14, "1200.0 TB"),
    ],
)
def test_size(size_bytes: int, said: str) -> None:
    assert render.size(size_bytes) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a  b\nc", "a b c"),
        ("abcdefghijk", "abcdefghi…"),
        (" ", "(blank)"),
        ("\u200b\u2060", "(blank)"),
        ("x" * 10, "x" * 10),
        ("a" + " " * 60 + "b", "a…"),
    ],
)
def test_beginning(text: str, said: str) -> None:
    assert render.beginning(text, 10) == said


def test_a_place_in_folded_text_is_found_again() -> None:
    payload = {"prompt": "ßßßX", "steps": [], "final_answer": ""}
    assert search.find("x", payload) == ("prompt", "ßßß", "X", "")
    assert search.find("sx", payload) == ("prompt", "ßß", "ßX", "")
