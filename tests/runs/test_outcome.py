"""What a run came to: the gate and the comment, from records that the stages' own modules wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.builders import Invoke, letter_trace, publish_dataset
from tests.finished_run import publish_run, torn
from tuneloop.artifacts.evaluation.accuracy import BasePrompt, Group, Paired
from tuneloop.artifacts.evaluation.delta_report import (
    Answer,
    DeltaReport,
    Guard,
    Item,
)
from tuneloop.runs.comment import SHOWN_REGRESSIONS, code, console_url, marker, render_comment
from tuneloop.runs.outcome import Failure, Outcome

RUN = "letters-7c1aa298"
GITHUB_CHARACTERS = 65_536
EVIL = (
    "</details>\n\n@admin ![x](https://e.example/p.png) [c](https://e.example) `|` | `b` "
    "<img src=x onerror=alert(1)> https://e.example \u202e --> <!-- #1 \\` \\| \x00"
)


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    url = str(tmp_path / "artifacts")
    publish_run(url, publish_dataset(url, [letter_trace(n) for n in range(3)]), RUN)
    return url


def group(name: str, base: int, tuned: int, total: int) -> Group:
    def answers(correct: int) -> dict[str, Any]:
        return {"correct": correct, "wrong": total - correct, "no_answer": 0, "low": 0, "high": 1}

    paired = {"improved": max(0, tuned - base), "regressed": max(0, base - tuned), "p_value": 0.5}
    return Group.model_validate(
        {"name": name, "base": answers(base), "tuned": answers(tuned), "paired": paired}
    )


def outcome(report: DeltaReport | None = None, failure: Failure | None = None) -> Outcome:
    missing = () if report else ("train", "eval", "import")
    return Outcome("evil-0a1b2c3d", report, "gs://bucket/a b/delta_report.md", missing, failure)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 0, "accuracy 5.6 % -> 72.2 %, 2 items regressed: the gate passes"),
        (("--min-accuracy", "0.72", "--min-gain", "0.6666"), 0, "the gate passes"),
        (("--max-regressions", "2"), 0, "the gate passes"),
        (("--min-accuracy", "0.8"), 13, "accuracy is 72.2 % (26 of 36), expected at least 80.0 %"),
        (("--min-gain", "0.7"), 13, "gain is +66.7 points, expected at least +70.0"),
        (("--max-regressions", "0"), 13, "2 items regressed, expected at most 0"),
        (("--min-accuracy", "nan"), 2, "less than or equal to 1"),
        (("--min-accuracy", "80"), 2, "less than or equal to 1"),
    ],
)
def test_gate(
    options: tuple[str, ...],
    code: int,
    said: str,
    tuneloop: Invoke,
    artifacts: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    found, out, err = tuneloop("gate", RUN, "--artifacts", artifacts, *options)
    assert (found, said in out + err) == (code, True), out + err
    assert ("::error title=letters-7c1aa298%3A gate::" in out) == (code == 13)


def test_a_gate_says_all_that_is_worse_than_asked(tuneloop: Invoke, artifacts: str) -> None:
    asked = ("--min-accuracy", "1", "--min-gain", "1", "--max-regressions", "0")
    code, _, err = tuneloop("gate", RUN, "--artifacts", artifacts, *asked)
    assert code == 13
    assert err.count("expected at ") == 3
    assert "delta_report.md, then change the data, the spec or the gate" in err


def test_a_run_without_a_report_is_no_pass(tuneloop: Invoke, artifacts: str) -> None:
    publish_run(artifacts, "letters-v1", "going-1", stages=["export"])
    code, _, err = tuneloop("gate", "going-1", "--artifacts", artifacts)
    assert code == 12
    assert "run going-1: no report: stage train has no record yet; wait for the run" in err
    verdict = {"state": "OutOfMemory", "cause": "killed", "fix": "give it more memory"}
    torn(artifacts, "going-1", "train/verdict.json", verdict)
    code, _, err = tuneloop("gate", "going-1", "--artifacts", artifacts)
    assert (code, "stage train: OutOfMemory: killed; give it more memory" in err) == (12, True)
    code, out, _ = tuneloop("report", "going-1", "--artifacts", artifacts, "--format", "comment")
    assert code == 0
    assert "### tuneloop: `going-1`: stage train failed\n\n`OutOfMemory`: `killed`" in out
    code, _, err = tuneloop("gate", "nobody-1", "--artifacts", artifacts)
    assert (
        code,
        "missing, expected the manifest of a run; check the run id and --artifacts" in err,
    ) == (12, True)
    code, _, err = tuneloop("gate", "../x", "--artifacts", artifacts)
    assert (code, "expected a name such as" in err) == (2, True)


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"state": 1}'])
def test_a_torn_verdict_is_a_sentence(text: str, tuneloop: Invoke, artifacts: str) -> None:
    publish_run(artifacts, "letters-v1", "going-1", stages=[])
    torn(artifacts, "going-1", "export/verdict.json", text)
    code, _, err = tuneloop("gate", "going-1", "--artifacts", artifacts)
    assert (code, "export/verdict.json: not a verdict" in err) == (12, True)


def test_a_report_that_was_changed_is_no_report(tuneloop: Invoke, artifacts: str) -> None:
    (file,) = Path(artifacts).glob(f"training_runs/{RUN}/eval/attempts/*/delta_report.json")
    file.write_bytes(file.read_bytes().replace(b'"correct": 26', b'"correct": 36'))
    code, _, err = tuneloop("gate", RUN, "--artifacts", artifacts, "--min-accuracy", "0.9")
    assert (code, "delta_report.json" in err) == (12, True)


def test_the_report_in_all_its_forms(
    tuneloop: Invoke, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ("--artifacts", artifacts)
    code, out, _ = tuneloop("report", RUN, *at)
    (path,) = Path(artifacts).glob(f"training_runs/{RUN}/eval/attempts/*/delta_report.md")
    assert (code, out) == (0, path.read_text("utf-8"))
    code, out, _ = tuneloop("report", RUN, *at, "--format", "json")
    assert code == 0
    assert json.loads(out)["overall"]["tuned"]["correct"] == 26
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.example")
    monkeypatch.setenv("GITHUB_REPOSITORY", "me/it")
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    code, out, _ = tuneloop("report", RUN, *at, "--format", "comment")
    assert code == 0
    first, title, *_ = out.splitlines()
    assert first == "<!-- tuneloop run letters -->"
    assert title == "### tuneloop: `letters-7c1aa298`: improved"
    assert "| **all** | 36 | 5.6 % | 72.2 % | +66.7 | 26 | 2 |" in out
    assert "[workflow run](https://github.example/me/it/actions/runs/7)" in out
    assert "| `letter-9` | `odd` | `J` | `[x](javascript:alert(1))` |" in out
    code, out, _ = tuneloop("report", RUN, *at, "--format", "marker")
    assert (code, out) == (0, first + "\n")


def tokens_of(markdown: str) -> list[str]:
    """Kinds of everything that a comment holds, as GitHub's rules read it; links by themselves."""
    parser = MarkdownIt("gfm-like", {"html": True, "linkify": False}).disable("linkify")
    found = []
    for token in parser.parse(markdown):
        found += [token.type, *(child.type for child in token.children or [])]
    return found


def test_nothing_foreign_gets_out_of_its_code_span() -> None:
    items = (
        Item(
            id=EVIL,
            category=EVIL,
            base=Answer(answer=EVIL, outcome="correct"),
            tuned=Answer(answer=None, outcome="no_answer"),
        ),
    ) * (SHOWN_REGRESSIONS + 5)
    report = DeltaReport(
        verdict="regressed",
        overall=group("all", 9, 3, 10),
        categories=tuple(group(f"{EVIL}{n}", 9, 3, 10) for n in range(500)),
        items=items,
    )
    failure = Failure("train", EVIL, EVIL * 100, EVIL)
    for made in (outcome(report), outcome(failure=failure)):
        text = render_comment(made, {"workflow run": "https://github.example/a/b/actions/runs/1"})
        assert len(text) < GITHUB_CHARACTERS
        assert "\u202e" not in text
        kinds = tokens_of(text)
        assert kinds.count("link_open") == 2  # ours
        assert not {"image", "html_inline"} & set(kinds)
        outside = re.sub(r"`[^`\n]*`", "", text)
        assert not re.search(r"@|<img|e\.example|onerror", outside)
        assert outside.count("</details>") == (1 if made.report else 0)
    body = render_comment(outcome(report))
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {5, 8}  # columns of the two tables, and one more
    assert "470 more categories are in the report." in body
    assert f"Regressions ({SHOWN_REGRESSIONS} of {len(items)})" in body
    assert "-60.0" in body


def test_a_comment_says_what_the_base_was_and_what_was_lost() -> None:
    full = group("all", 3, 9, 10)
    paired = Paired(improved=6, regressed=0, p_value=0.03, gain_low=0.2, gain_high=0.9)
    report = DeltaReport(
        verdict="improved",
        overall=full.model_copy(update={"paired": paired}),
        categories=(),
        items=(),
        base_prompts=(BasePrompt(examples=2, base=full.base, paired=paired),),
        base_examples=2,
        guard=Guard(
            name="general.jsonl",
            scorer="contains_answer",
            base=full.tuned,
            tuned=full.tuned,
            kept=8,
            kept_low=0.5,
            kept_high=0.98,
            lost=(),
        ),
        random_weights=True,
    )
    text = render_comment(outcome(report))
    assert ": improved, from random weights\n" in text
    assert "p = 0.03; gain +60.0 points, 95 % interval +20.0 to +90.0." in text
    assert "with 2 training examples in its prompt." in text
    assert "8 of the 9 that the base model answered correctly are kept (88.9 %)." in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ""),
        (" \n\t", ""),
        ("``", "`''`"),
        ("a|b\nc", "`a¦b c`"),
        ("x" * 100, "`" + "x" * 59 + "…`"),
        ("\\", "`\\`"),
    ],
)
def test_code(text: str | None, expected: str) -> None:
    assert code(text) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "gs://b/a b/r(1).md",
            "https://console.cloud.google.com/storage/browser/_details/b/a%20b/r%281%29.md",
        ),
        ("s3://b/a/r.md", "https://s3.console.aws.amazon.com/s3/object/b?prefix=a/r.md"),
        ("/tmp/r.md", None),
        ("https://x.example/r.md", None),
    ],
)
def test_console_url(url: str, expected: str | None) -> None:
    assert console_url(url) == expected


def test_runs_of_one_spec_share_their_comment() -> None:
    assert marker("sft-tiny-0a1b2c3d") == marker("sft-tiny-ffffffff")
    assert marker("sft-tiny-0a1b2c3d") != marker("sft-0a1b2c3d")
