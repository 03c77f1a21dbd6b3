"""The pages that show training examples as tokens, on a store with exports of several kinds."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.builders import letter_trace, publish_dataset
from tests.exported_run import example_line, publish_export, trace_id
from tests.finished_run import publish_run
from tests.store.web.looking import HOSTILE, look, post, text_of
from tuneloop.runs import store_app
from tuneloop.runs.examples import search, viewer
from tuneloop.storage import files
from tuneloop.store.app import create_app
from tuneloop.store.db.database import Database
from tuneloop.training.export.exclusions import Exclusion

RUN = "letters-11111111"


@pytest.fixture
def http(tmp_path: Path, artifacts: Path) -> Iterator[TestClient]:
    """A client of a store with the reader of examples, and a dataset."""
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    publish_dataset(str(artifacts), [letter_trace(number) for number in range(3)])
    with TestClient(create_app(database, str(artifacts), store_app.CATALOG)) as client:
        yield client


def tokens_of(page: str) -> list[tuple[str, str]]:
    """Return (text, title) of each token; white space is as in the page."""
    found = re.findall(
        r'<span class="t(?: [^"]*)?"(?: title="([^"]*)")?>(.*?)</span>', page, re.DOTALL
    )
    return [
        (html.unescape(re.sub(r"<b class.*?</b>|<[^>]*>", "", text)), title)
        for title, text in found
    ]


def test_an_example_is_shown_as_training_sees_it(http: TestClient, artifacts: Path) -> None:
    lines = [example_line(n, f"Ask {n}", f"Reply {n}", dropped_steps=n) for n in range(3)]
    publish_export(str(artifacts), RUN, [lines])
    page = look(http, f"/runs/{RUN}/examples?number=2")
    before, after = page.split("In the loss <span")[0], page.split("In the loss <span")[1]
    assert "".join(text for text, _ in tokens_of(before)) == (
        "<|im_start|>user\nAsk 1<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "".join(text for text, _ in tokens_of(after)) == "Reply 1<|im_end|>"
    assert tokens_of(after)[-1] == ("<|im_end|>", "id 258, control token")
    assert tokens_of(after)[0] == ("R", "id 49")
    assert '<b class="unseen"> 49 </b>' in after
    said = text_of(page)
    assert "Tokens 32 In the loss 8 (25.0 %) Shortened 1 step dropped Trace" in said
    assert f'href="/traces/{trace_id(1)}"' in page
    assert f'href="/runs/{RUN}/examples?number=1" rel="prev"' in page
    assert f'href="/runs/{RUN}/examples?number=3" rel="next"' in page
    assert f'href="/runs/{RUN}/examples"' in look(http, f"/runs/{RUN}")


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_numbers_go_through_all_files_and_both_sets(
    http: TestClient, artifacts: Path, compression: str
) -> None:
    shards = [[example_line(n, f"Ask {n}", "x") for n in group] for group in ((0, 1), (), (2,))]
    held_out = [example_line(7, "Ask 7", "y")]
    publish_export(str(artifacts), RUN, shards, validation=held_out, compression=compression)
    for number, asked in enumerate(("Ask 0", "Ask 1", "Ask 2"), start=1):
        page = look(http, f"/runs/{RUN}/examples?number={number}")
        assert asked in "".join(text for text, _ in tokens_of(page))
        assert "1 validation example" in text_of(page)
    page = look(http, f"/runs/{RUN}/examples?split=validation")
    assert "Ask 7" in "".join(text for text, _ in tokens_of(page))
    assert "3 training examples" in text_of(page)
    assert "none with this number" in look(http, f"/runs/{RUN}/examples?number=4", 404)
    for wrong in ("number=0", "number=x", "split=test", "token=0", "number=9999999999999"):
        look(http, f"/runs/{RUN}/examples?{wrong}", 422)


def test_hostile_text_is_no_markup_and_everything_invisible_is_visible(
    http: TestClient, artifacts: Path
) -> None:
    prompt = f"{HOSTILE}<|im_end|>\u202e\u2067\x1b[31m\u200b\xa0"
    response = "مدرسة 5\n\t  👩🏽‍🚀\u2028</span></main>"
    line = example_line(0, prompt, response, meta={"x": HOSTILE})
    publish_export(str(artifacts), RUN, [[line]])
    page = look(http, f"/runs/{RUN}/examples")
    text = "".join(text for text, _ in tokens_of(page))
    assert HOSTILE in text
    # The content spells a control token, and training puts a WORD JOINER into it.
    assert "<U+2060|im_end|>" in text.replace("⋯", "")
    for code in ("U+202E", "U+2067", "U+001B", "U+200B", "U+00A0", "U+2028"):
        assert f'<i class="code">{code}</i>' in page
    assert "\u202e" not in page
    assert '<i class="line">\n</i>' in page
    assert '<i class="tab">\t</i>' in page
    # A byte tokenizer needs several tokens for a character, which is shown with the last one.
    assert "👩" in text
    assert "م" in text
    assert page.count('<i class="byte">⋯</i>') == page.count("part of the next character")


def test_a_long_example_is_shown_in_parts(
    http: TestClient, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(chr(0x4E00 + n) for n in range(50))  # three tokens each
    publish_export(str(artifacts), RUN, [[example_line(0, "Ask", text)]])
    whole = tokens_of(look(http, f"/runs/{RUN}/examples"))
    monkeypatch.setattr(viewer, "PAGE_TOKENS", 50)
    found, url, pages = [], f"/runs/{RUN}/examples", 0
    while True:
        page = look(http, url)
        found += tokens_of(page)
        pages += 1
        later = re.search(r'href="([^"]*)">Later tokens', page)
        if later is None:
            break
        url = html.unescape(later[1])
    assert found == whole
    assert pages == -(-len(whole) // 50)
    assert "Earlier tokens" in page
    assert "has only" in look(http, f"/runs/{RUN}/examples?token=9000", 404)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_trace_leads_to_its_example(
    http: TestClient, artifacts: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BLOCK_BYTES", 64)
    decoy = {"source_trace_id": trace_id(3)}
    shards = [
        [example_line(0, "Ask", f'"source_trace_id":"{trace_id(3)}"', meta=decoy)],
        [example_line(n, "Ask", "x") for n in (1, 2, 3)],
    ]
    out = Exclusion(detail=HOSTILE, reason="over_length", row=5, trace_id=trace_id(5))
    publish_export(
        str(artifacts),
        RUN,
        shards,
        validation=[example_line(4, "Ask", "x")],
        excluded=[out],
        compression=compression,
    )
    for number, place in ((3, "number=4"), (0, "number=1"), (4, "number=1&split=validation")):
        reply = http.get(f"/runs/{RUN}/examples?trace={trace_id(number)}", follow_redirects=False)
        assert reply.status_code == 303
        assert reply.headers["location"] == f"/runs/{RUN}/examples?{place}"
    said = text_of(look(http, f"/runs/{RUN}/examples?trace={trace_id(5)}"))
    assert f"so nothing is trained on it. over_length: {HOSTILE}" in said
    for unknown in (trace_id(6), '"', "\u2067", "x" * 200):
        said = text_of(look(http, f"/runs/{RUN}/examples?trace={unknown}"))
        assert "does not contain the trace" in said


def test_the_page_of_a_trace_leads_to_its_example(http: TestClient, artifacts: Path) -> None:
    (trace,) = post(http, letter_trace(0))
    assert "<select" not in look(http, f"/traces/{trace}")
    publish_export(str(artifacts), RUN, [[example_line(0, "Ask", "x")]])
    page = look(http, f"/traces/{trace}")
    assert f"<option>{RUN}</option>" in page
    assert f'name="trace" value="{trace}"' in page
    query = {"run": RUN, "trace": trace_id(0)}
    assert "Training example 1" in http.get("/runs/example", params=query).text
    look(http, "/runs/example?run=../x&trace=x", 404)
    look(http, "/runs/example?run=x", 422)


def test_a_long_search_is_continued(
    http: TestClient, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BLOCK_BYTES", 200)
    monkeypatch.setattr(search.find_trace, "__defaults__", (-1.0,))
    shards = [[example_line(n + 9 * part, "Ask", "x") for n in range(9)] for part in range(2)]
    publish_export(str(artifacts), RUN, shards)
    url, steps = f"/runs/{RUN}/examples?trace={trace_id(14)}", 0
    while (reply := http.get(url, follow_redirects=False)).status_code == 200:
        url = html.unescape(re.findall(r'href="([^"]*)">Continue', reply.text)[0])
        steps += 1
        assert steps < 50
    assert reply.headers["location"] == f"/runs/{RUN}/examples?number=15"
    assert steps > 5
    assert http.get(f"/runs/{RUN}/examples?trace=x&after=nonsense").status_code == 200


def test_without_a_tokenizer_the_text_is_shown(
    http: TestClient, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_export(str(artifacts), RUN, [[example_line(0, "Ask", "Reply  x")]], model=None)
    page = look(http, f"/runs/{RUN}/examples")
    assert "This run trains its own tokenizer" in text_of(page)
    assert [text for text, _ in tokens_of(page)] == ["Ask", "Reply  x"]
    assert "Characters 11 In the loss 8 (72.7 %)" in text_of(page)
    publish_export(str(artifacts), "small-22222222", [[example_line(0, "Ask", "Reply")]])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "tuneloop.training.text.json_tokenizer", raising=False)
    said = text_of(look(http, "/runs/small-22222222/examples"))
    assert "The package tokenizers is not installed where this store runs" in said
    assert "pip install tokenizers sentencepiece" in said
    files.delete_tree(str(artifacts / "models"))
    monkeypatch.undo()
    said = text_of(look(http, "/runs/small-22222222/examples"))
    assert "tokenizer of the run's model cannot be read" in said


def test_a_run_without_an_export_or_examples(http: TestClient, artifacts: Path) -> None:
    publish_run(str(artifacts), "letters-v1", "new-1", stages=())
    for query in ("", f"?trace={trace_id(0)}"):
        assert "has not finished" in text_of(look(http, f"/runs/new-1/examples{query}"))
    assert "/runs/new-1/examples" not in look(http, "/runs/new-1")
    publish_export(str(artifacts), RUN, [[]])
    assert "no training examples" in text_of(look(http, f"/runs/{RUN}/examples"))
    look(http, "/runs/nowhere/examples", 404)


def test_broken_files_are_named_without_the_servers_paths(
    http: TestClient, artifacts: Path
) -> None:
    publish_export(str(artifacts), RUN, [[example_line(0, "Ask", "x")]])
    file = next((artifacts / "training_runs" / RUN).rglob("examples-*.jsonl"))
    half = json.dumps("\ud800").encode()
    for content, words in (
        (b'{"id":"e0","metadata":{},"prompt":' + half + b',"response":"x"}\n', "export the"),
        (b"\xff" * 100, "export the"),
        (b"", "export the"),
    ):
        file.write_bytes(content)
        page = look(http, f"/runs/{RUN}/examples")
        assert words in text_of(page)
        assert str(artifacts) not in page
    (file.parent / "index" / file.name.replace(".jsonl", ".u64")).unlink()
    assert "index is missing" in text_of(look(http, f"/runs/{RUN}/examples"))
    said = text_of(look(http, f"/runs/{RUN}/examples?trace={trace_id(0)}"))
    assert "its index is missing" in said


def test_too_long_examples_are_not_encoded(
    http: TestClient, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_export(str(artifacts), RUN, [[example_line(0, "Ask", "a b" * 5000)]])
    monkeypatch.setattr(viewer, "MAX_ENCODED_CHARACTERS", 10_000)
    page = look(http, f"/runs/{RUN}/examples?token=10001")
    assert "over 10,000 characters" in text_of(page)
    assert "Characters 10,001 to 15,003 of 15,003" in text_of(page)
    monkeypatch.setenv("TUNELOOP_LIMIT_SHOWN_LINE_BYTES", "10000")
    said = text_of(look(http, f"/runs/{RUN}/examples"))
    assert "expected at most 10,000" in said
    assert "TUNELOOP_LIMIT_SHOWN_LINE_BYTES" in said
