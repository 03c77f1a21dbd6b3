"""Scoring and reporting of generated answers, without a model."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import stage_specs
from tuneloop import jsonl
from tuneloop.artifacts import records
from tuneloop.artifacts.delta_report import load_report
from tuneloop.artifacts.eval_samples import dump_samples, load_samples
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.artifacts.results import (
    Contamination,
    EvalCounts,
    EvalResults,
    ExportCounts,
    ExportResults,
    TrainCounts,
    TrainResults,
)
from tuneloop.errors import SpecError
from tuneloop.evaluation.scorers.schema import Score, Scorer
from tuneloop.evaluation.scorers.table import SCORERS, scorer_named
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.specs.stages import EvalStage
from tuneloop.stages import evaluate
from tuneloop.stages.context import Stage
from tuneloop.storage import files, paths


def score_first_letter(item: EvalItem, answer: str | None) -> Score:
    """Right if the first letter is, with credit for the share of letters that agree."""
    if answer is None:
        return Score.no_answer()
    if answer[:1] == item.expected_answer[:1]:
        return Score("correct", 0.5, answer, answer[:1], "the first letter is right")
    return Score.wrong(answer, "the first letter is wrong")


def write_set(path: Path, *answers: str) -> str:
    """Write an eval set with a question for each answer; returns its digest."""
    data = b"".join(
        jsonl.dump_line(
            {
                "id": f"x-{number}",
                "prompt": f"? {number}",
                "expected_answer": answer,
                "category": "c",
                "difficulty": "easy",
            }
        )
        for number, answer in enumerate(answers)
    )
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def eval_stage(folder: Path, *answers: str, **changes: Any) -> Stage:
    digest = write_set(folder / "set.jsonl", *answers)
    spec = stage_specs()["eval"]
    assert isinstance(spec, EvalStage)
    options = spec.options.model_copy(
        update={"eval_set": str(folder / "set.jsonl"), "allow_unchecked": True, **changes}
    )
    update = {
        "upstream": {"export": "1" * 64, "train": "2" * 64},
        "options": options,
        "eval_set_sha256": digest,
        "execution": spec.execution.model_copy(update={"artifacts": str(folder / "artifacts")}),
    }
    started = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
    return Stage(spec.model_copy(update=update), started_at=started, attempt="a")


UPSTREAM = {
    "export": ExportResults(
        contamination=Contamination(policy="off", eval_prompts_sha256=None, excluded=0, kept=0),
        lengths={},
    ),
    "train": TrainResults(
        loss_first=2.0,
        loss_last=1.0,
        base_digest="b" * 64,
        tuned_digest="t" * 64,
    ),
}


COUNTS = {
    "export": dict.fromkeys(ExportCounts.model_fields, 0),
    "train": dict.fromkeys(TrainCounts.model_fields, 1),
}


def record(stage: Stage, name: str, outputs: tuple[OutputFile, ...] = ()) -> Record:
    return Record(
        run_id=stage.spec.run_id,
        stage=name,
        fingerprint=stage.spec.upstream.get(name, stage.spec.fingerprint),
        attempt="a",
        inputs={},
        outputs=outputs,
        counts=COUNTS.get(name, {}),
        results=UPSTREAM[name].model_dump() if name in UPSTREAM else {},
        started_at="2026-11-22T00:00:00+00:00",
        seconds=1.0,
        provenance={},
    )


def generated(stage: Stage, asked: str, *texts: str) -> OutputFile:
    """Write the generations of a pass, the last item first, as shards may."""
    rows = [
        {"item": number, "text": text, "tokens": 3, "hit_limit": False}
        for number, text in enumerate(texts)
    ]
    data = b"".join(jsonl.dump_line(row) for row in reversed(rows))
    name = evaluate.SHARD_FILE.format(asked)
    path = f"training_runs/{stage.spec.run_id}/eval/attempts/a/{name}"
    files.write(paths.join(stage.artifacts, path), data)
    digest = hashlib.sha256(data).hexdigest()
    return OutputFile(name=name, path=path, size_bytes=len(data), sha256=digest)


def merged(stage: Stage, shards: list[Record]) -> tuple[Callable[[str], bytes], Record]:
    """Merge shards; returns a function that reads an output, and the record."""
    assert isinstance(stage.spec, EvalStage)
    evaluate.merge(stage.spec, stage, shards)
    made = stage.build_record()
    return lambda name: records.read_output(made.output(name), stage.artifacts), made


def test_a_scorer_registered_from_outside_scores_and_is_named_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORERS, "first_letter", Scorer(score_first_letter, "their first letter"))
    stage = eval_stage(tmp_path, "Paris", scorer="first_letter")
    for name in UPSTREAM:
        records.publish(record(stage, name), stage.artifacts)
    texts = {"before": "Answer: Rome", "after": "Answer: Prague"}
    shard = record(stage, "eval", tuple(generated(stage, *each) for each in texts.items()))
    read, _ = merged(stage, [shard])
    report = load_report(read("delta_report.json"), "delta_report.json")
    assert report.header["scorer"] == "first_letter"
    assert (report.overall.base.correct, report.overall.tuned.correct) == (0, 1)
    assert json.loads(read("delta_report.json"))["items"][0]["tuned"] == {
        "answer": "Prague",
        "matched": "P",
        "outcome": "correct",
        "value": 0.5,
    }
    assert b"`first_letter`" in read("delta_report.md")
    assert json.loads(read("eval_after.jsonl"))["meta"]["correct"] is True


def test_the_verdict_compares_with_the_better_prompt_and_the_guard_counts_what_is_lost(
    tmp_path: Path,
) -> None:
    guard = tmp_path / "general.jsonl"
    guard_digest = write_set(guard, "Rome", "4", "blue")
    options = {"base_examples": 2, "guard_set": str(guard)}
    stage = eval_stage(tmp_path, "Paris", "5", "b", **options)
    stage.spec = stage.spec.model_copy(update={"guard_set_sha256": guard_digest})
    for name in UPSTREAM:
        records.publish(record(stage, name), stage.artifacts)
    passes = {
        "before": ("Paris", "I do not know", ""),
        "before_with_examples": ("Answer: Paris", "Answer: 6", "Answer: b"),
        "after": ("Answer: Paris", "Answer: 5", "Answer: a"),
        "guard_before": ("It is Rome.", "Answer: 4", "no idea"),
        "guard_after": ("Answer: Rome", "Answer: 44", "blue"),
    }
    shard = record(
        stage, "eval", tuple(generated(stage, name, *texts) for name, texts in passes.items())
    )
    read, made = merged(stage, [shard])
    counts, results = made.counts_as(EvalCounts), made.results_as(EvalResults)
    assert (counts.base_correct, counts.tuned_correct, counts.regressions) == (2, 2, 1)
    assert (results.base_examples, results.by_base_examples) == (2, {0: 0.0, 2: 2 / 3})
    assert (counts.guard_items, counts.guard_base_correct, counts.guard_kept) == (3, 2, 1)
    assert results.guard_kept_low is not None and results.guard_kept_low < 0.5
    assert made.inputs["guard_set"] == guard_digest
    report = read("delta_report.md").decode()
    assert "# Delta report: no detectable difference, from random weights" in report
    assert "the base model with 2 examples, where it scores best" in report
    assert "Tuning cost 1 of the 2 general questions" in report
    shown = [json.loads(line) for line in read("eval_before_with_examples.jsonl").splitlines()]
    assert [trace["meta"]["outcome"] for trace in shown] == ["correct", "wrong", "correct"]
    assert {trace["meta"]["model_digest"] for trace in shown} == {"b" * 64}
    found = load_samples(read("samples.jsonl").splitlines(), "samples.jsonl")
    assert read("samples.jsonl") == b"".join(dump_samples(found))
    assert [(each.name, each.weight) for each in found.sets.values()] == [
        *(("set", "required"), ("general", "guarded"))
    ]
    assert {each.name: each.digest[0] for each in found.models.values()} == {
        **{"base": "b", "base (2 examples)": "b", "tuned": "t"}
    }
    assert [(each.set, each.model, each.score.state) for each in found.samples[::3]] == [
        ("set", "base", "no_answer"),
        ("set", "base (2 examples)", "correct"),
        ("set", "tuned", "correct"),
        ("general", "base", "correct"),
        ("general", "tuned", "correct"),
    ]
    assert found.samples[2].text == "" and found.items["general", "x-2"].expected_answer == "blue"


def test_an_older_record_has_no_guard_and_no_interval() -> None:
    old = {"accuracy_base": 0.5, "accuracy_tuned": 1.0, "by_category": {}, "verdict": "improved"}
    assert EvalResults.model_validate(old).gain_low is None
    counted = {"items": 2, "base_correct": 1, "base_no_answer": 0, "tuned_correct": 2}
    assert (
        EvalCounts.model_validate({**counted, "tuned_no_answer": 0, "regressions": 0}).guard_items
        == 0
    )


def test_an_unknown_scorer_lists_the_known() -> None:
    with pytest.raises(
        SpecError, match=r"eval\.scorer 'x' is unknown, expected one of: contains_answer, exact"
    ):
        scorer_named("x")
