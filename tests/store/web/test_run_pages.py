"""Web pages of runs."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from tests.finished_run import publish_run, torn
from tests.store.web.looking import HOSTILE, look, text_of
from tuneloop.artifacts import layout
from tuneloop.artifacts.rounds.store import RoundsManifest, RoundsMember, save_rounds
from tuneloop.storage import files
from tuneloop.store.web import run_pages


def test_a_run(http: TestClient, artifacts: Path, run_id: str) -> None:
    page = look(http, f"/runs/{run_id}")
    said = text_of(page)
    for part in (
        "State finished Accuracy 5.6 % → 72.2 % Verdict improved Dataset letters-v1 , 104 traces",
        "Base model random weights (gemma3); it knows nothing before training",
        "Planned from commit 2e84a5bb4504 , with uncommitted changes",
        "train done 3 min 20 s examples 104 parameters 7,520 steps 50 tokens 57,460",
        "Loss 6.25 → 0.592",
        "Loss by step: 6.25 at step 1, 0.592 at step 50; lowest 0.431 at step 48.",
        "Delta report: improved",
        '"eval_set": "letters_v1.jsonl"',
        '"guard_set": "general_v1.jsonl"',
        '"url": "more_v1.jsonl"',
    ):
        assert part in said
    assert str(artifacts) not in page
    assert page.count("<polyline points=") == 1
    assert "<h2 dir" not in page and ">Delta report: improved</h2>" in page
    assert "<h3>By category</h3>" in page
    assert "<h2>One item in full" not in page
    assert run_id in text_of(look(http, "/runs"))


def test_the_list_names_the_rounds_of_a_run(http: TestClient, artifacts: Path, run_id: str) -> None:
    publish_run(str(artifacts), "letters-v1", "alone-1", stages=[])
    member = RoundsMember(seed=1, round=2, role="selected", run_id=run_id)
    rounds = RoundsManifest(
        rounds_id="r-rounds-1",
        settings={},
        spec={},
        seeds=(1,),
        count=2,
        arms=(),
        members=(member,),
    )
    save_rounds(rounds, str(artifacts))
    page = look(http, "/runs")
    assert f"{run_id} seed 1, round 2, selected of r-rounds-1" in text_of(page)
    assert 'href="/runs?of=r-rounds-1"' in page
    chosen = text_of(look(http, "/runs?of=r-rounds-1"))
    assert run_id in chosen
    assert "alone-1" not in chosen
    unknown = look(http, f"/runs?of={quote(HOSTILE)}")
    assert "There are no runs of a sweep or of rounds with this id." in text_of(unknown)
    assert "<script>" not in unknown


def test_a_run_names_its_base_model_and_licence(
    http: TestClient, artifacts: Path, run_id: str
) -> None:
    model = {
        "name": "small-llama",
        "family": "llama3",
        "parameters": 6464,
        "dtype": "bfloat16",
        "licence": HOSTILE,
        "random_weights": False,
    }
    publish_run(str(artifacts), "letters-v1", "tuned-1", stages=[], model=model)
    assert run_id in text_of(look(http, "/runs"))
    said = text_of(look(http, "/runs/tuned-1"))
    expected = f"small-llama (llama3, 6,464 parameters, bfloat16, licence {HOSTILE})"
    assert f"Base model {expected} Recipe" in said
    publish_run(str(artifacts), "letters-v1", "old-1", stages=[], model=None)
    assert "Base model" not in text_of(look(http, "/runs/old-1"))


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
    assert "(2 invisible characters)" in made
    allowed = {"h2", "h6", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "div"}
    assert set(re.findall(r"</?([a-z0-9]+)", made)) == allowed
    assert "style=" not in made
    assert "href" not in made
    assert 'scope="col"' in made
    assert made.count("<thead>") == 1
    assert made.count('role="region" tabindex="0"') == 2


@pytest.mark.parametrize(
    "text",
    [
        "|a|b|\n|-|-|\n" + "|`a`|b|\n" * 100_000,
        "*a _b " * 150_000,
        "[" * 1_000_000,
        "`" * 50_000 + "text\n<i>x</i>\n" + "`" * 50_000 + "\n" + "x" * 900_000,
        "|a" * 500_000,
    ],
)
def test_a_report_of_a_megabyte_is_shown_in_seconds(text: str) -> None:
    since = time.perf_counter()
    made = run_pages.render_report(text)
    assert time.perf_counter() - since < 15  # all of it as Markdown takes 20 to 60 s
    assert "the rest is shown as it is in the file" in made
    assert "<i>" not in made
    assert made.count("a") >= text.count("a")


def test_a_result_of_another_run_says_so(http: TestClient, artifacts: Path, run_id: str) -> None:
    url = layout.record_url(str(artifacts), run_id, "train")
    record = json.loads(files.read(url))
    del record["seal"]
    publish_run(str(artifacts), "letters-v1", "again-1", stages=[])
    torn(str(artifacts), "again-1", "train/record.json", {**record, "run_id": "again-1"})
    assert "train reused 3 min 20 s" in text_of(look(http, "/runs/again-1"))


def test_very_many_runs_are_cut_and_said(
    http: TestClient, artifacts: Path, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_pages, "MAX_RUNS", 2)
    for number in range(3):
        publish_run(str(artifacts), "letters-v1", f"b-{number}", stages=[])
    assert "There are 4 runs; this page shows the first 2 by name." in text_of(look(http, "/runs"))
