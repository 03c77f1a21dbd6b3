"""Reports from samples alone: scored again, and compared between runs."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests.builders import Invoke, letter_trace, publish_dataset
from tests.evaluation.samples import judged, samples_of
from tests.finished_run import answered, publish_run
from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, State
from tuneloop.cli.shared.display import print_comparison
from tuneloop.runs.reports.compare import as_json, compare_runs, compare_samples
from tuneloop.runs.reports.compare_page import render_page
from tuneloop.runs.reports.rescore import rescore
from tuneloop.runs.reports.samples import read_samples
from tuneloop.training.prompt_templates import recipe_named

RUN, SECOND = "letters-7c1aa298", "second-00c0ffee"


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    url = str(tmp_path / "artifacts")
    publish_run(url, publish_dataset(url, [letter_trace(n) for n in range(3)]), RUN)
    return url


def marked() -> EvalSamples:
    """The samples, with texts that hold the judged answers, and a generation that failed."""
    found = answered()
    samples = [
        msgspec.structs.replace(one, text=f"Answer: {one.score.answer}" if one.score.answer else "")
        for one in found.samples
    ]
    samples[1] = msgspec.structs.replace(samples[1], text="", score=judged("error"))
    return EvalSamples(found.sets, found.models, found.items, tuple(samples))


def test_scoring_again_with_the_same_scorers_changes_nothing() -> None:
    recipe = recipe_named("trace_sft_v1")
    once = rescore(marked(), recipe)
    states: list[tuple[str, float]] = [(one.score.state, one.score.value) for one in once.samples]
    assert states == [(one.score.state, one.score.value) for one in marked().samples]
    assert once.samples[1].score == marked().samples[1].score
    assert rescore(once, recipe) == once


def test_a_run_is_scored_again(tuneloop: Invoke, artifacts: str, tmp_path: Path) -> None:
    stored = read_samples(artifacts, RUN)
    out = tmp_path / "out"
    code, text, said = tuneloop(
        "report", RUN, "--artifacts", artifacts, "--rescore", "-o", str(out)
    )
    assert code == 0, said
    # The stored texts have no marked answers, so the strict scores are lost.
    assert f"{RUN}: scored 72 answers again: " in said
    assert "strict: " in said and "from correct to no_answer" in said
    assert "verdict: improved -> no detectable difference" in said
    assert text.startswith("# Delta report: no detectable difference")
    names = ["delta_report.html", "delta_report.json", "delta_report.md", "samples.jsonl"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert (out / "delta_report.md").read_text() == text
    assert read_samples(artifacts, RUN) == stored
    code, text, _ = tuneloop(
        "report", RUN, "--artifacts", artifacts, "--rescore", "--format", "json"
    )
    value = json.loads(text)
    assert (code, value["rescored"]["answers"]) == (0, 72)
    assert value["header"]["scorer"] == "exact_match"
    assert value["rescored"]["changes"][0]["reading"] in ("strict", "lenient")


def test_the_noise_floor_of_the_record_is_in_the_new_report(
    tuneloop: Invoke, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of an older version has none."""
    measured = {"answers": 64, "changed": 9, "flipped": 2, "set": "letters_v1"}
    record = records.find(artifacts, RUN, "eval")
    assert record is not None
    with_noise = record.model_copy(update={"results": {**record.results, "noise": measured}})
    monkeypatch.setattr(records, "find", lambda *_: with_noise)
    options = "report", RUN, "--artifacts", artifacts, "--rescore"
    code, text, said = tuneloop(*options, "--format", "json")
    assert code == 0, said
    # The scores of the tuned model changed, and the texts of the second answers are not kept.
    assert json.loads(text)["noise"] == {**measured, "flipped": None}
    assert "64 questions of `letters_v1` again" in tuneloop(*options)[1]


def test_options_that_do_not_fit_are_refused(tuneloop: Invoke, artifacts: str) -> None:
    options = "report", RUN, "--artifacts", artifacts
    assert tuneloop(*options, "--rescore", "--format", "comment")[0] == 2
    assert tuneloop(*options, "--rescore", "--min-gain", "0")[0] == 2
    assert tuneloop(*options, "-o", "x")[0] == 2
    logs = *options, "--format", "inspect"
    assert "expected -o with a folder" in tuneloop(*logs)[2]
    assert "found options of a gate" in tuneloop(*logs, "-o", "x", "--min-gain", "0")[2]


def test_without_inspect_ai_one_sentence_says_what_to_install(
    tuneloop: Invoke, artifacts: str, tmp_path: Path
) -> None:
    """`make check-inspect` tests the logs, in an environment that has the package."""
    out = tmp_path / "logs"
    code, _, error = tuneloop(
        "report", RUN, "--artifacts", artifacts, "--format", "inspect", "-o", str(out)
    )
    assert (code, out.exists()) == (2, False)
    assert "inspect-ai is not installed, expected it; install requirements/inspect.txt" in error


def test_runs_are_compared_on_the_set_that_they_share(tuneloop: Invoke, artifacts: str) -> None:
    publish_run(artifacts, "letters-v1", SECOND)
    rows = compare_runs(artifacts, [RUN, SECOND])
    assert [row.run_id for row in rows] == [RUN, SECOND]
    assert (rows[0].gain, rows[1].gain, rows[1].better, rows[1].worse) == (None, 0, 0, 0)
    assert rows[0].accuracy == pytest.approx(26 / 36)
    options = "compare", RUN, SECOND, "--artifacts", artifacts
    code, text, said = tuneloop(*options)
    assert (code, max(map(len, text.splitlines())) <= 80) == (0, True), said
    assert "letters_v1: 36 items" in text and "+0.0" in text
    code, text, _ = tuneloop(*options, "--json")
    assert [row["verdict"] for row in json.loads(text)["rows"]] == [
        None,
        "no detectable difference",
    ]
    assert tuneloop("compare", RUN, RUN, "--artifacts", artifacts)[0] == 2
    code, _, said = tuneloop("compare", RUN, "nowhere-00000000", "--artifacts", artifacts)
    assert (code, "no samples" in said) == (12, True)


def test_table_json_and_page_have_the_same_adjusted_verdicts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answers(right: int) -> EvalSamples:
        states: list[State] = ["correct" if n < right else "wrong" for n in range(40)]
        return samples_of({"base": ["wrong"] * 40, "tuned": states})

    samples = {"a-00000001": answers(12), "b-00000002": answers(18), "c-00000003": answers(11)}
    alone = compare_samples({each: samples[each] for each in ("a-00000001", "b-00000002")})
    assert (alone[1].p_value, alone[1].adjusted_p) == (2 / 2**6, 2 / 2**6)
    assert alone[1].verdict == "improved"
    rows = compare_samples(samples)
    # Six items, all in favour of one run, are not enough for one of two comparisons.
    assert [row.p_value for row in rows] == [None, 2 / 2**6, 1]
    assert [row.adjusted_p for row in rows] == [None, 4 / 2**6, 1]
    chance = "no detectable difference"
    assert [row.verdict for row in rows] == [None, chance, chance]
    assert as_json(rows)["rows"][1]["adjusted_p"] == 4 / 2**6
    page = render_page(rows, samples)
    assert page.count(f">{chance}</span>") == 2
    assert "but the difference may be chance" in page
    assert '<td class="n">0.062</td>' in page
    print_comparison(rows)
    (line,) = (each for each in capsys.readouterr().out.splitlines() if "b-0000" in each)
    assert "0.062" in line and "no detect" in line


def test_a_comparison_is_written_as_a_page(
    tuneloop: Invoke, artifacts: str, tmp_path: Path
) -> None:
    publish_run(artifacts, "letters-v1", SECOND)
    out = tmp_path / "compare.html"
    options = "compare", RUN, SECOND, "--artifacts", artifacts, "-o", str(out)
    code, _, said = tuneloop(*options)
    assert code == 0, said
    page = out.read_bytes()
    assert b"None: all runs got the same credit for each item." in page
    assert f"{SECOND} answers as many questions of letters_v1 correctly as {RUN}".encode() in page
    assert tuneloop(*options)[0] == 0 and out.read_bytes() == page
