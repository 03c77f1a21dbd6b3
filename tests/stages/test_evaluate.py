"""Scoring and reporting of generated answers, without a model."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import pytest

from tests.builders import stage_specs
from tuneloop import jsonl
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.delta_report import load_report
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.artifacts.results import Contamination, ExportResults, TrainResults
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


def eval_stage(folder: Path, scorer: str) -> Stage:
    item = {"id": "x", "prompt": "?", "expected_answer": "Paris", "category": "c"}
    data = jsonl.dump_line({**item, "difficulty": "easy"})
    (folder / "set.jsonl").write_bytes(data)
    spec = stage_specs()["eval"]
    assert isinstance(spec, EvalStage)
    options = spec.options.model_copy(
        update={"eval_set": str(folder / "set.jsonl"), "allow_unchecked": True, "scorer": scorer}
    )
    update = {
        "upstream": {"export": "1" * 64, "train": "2" * 64},
        "options": options,
        "eval_set_sha256": hashlib.sha256(data).hexdigest(),
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


def record(stage: Stage, name: str, outputs: tuple[OutputFile, ...] = ()) -> Record:
    return Record(
        run_id=stage.spec.run_id,
        stage=name,
        fingerprint=stage.spec.upstream.get(name, stage.spec.fingerprint),
        attempt="a",
        inputs={},
        outputs=outputs,
        counts={},
        results=UPSTREAM[name].model_dump() if name in UPSTREAM else {},
        started_at="2026-11-22T00:00:00+00:00",
        seconds=1.0,
        provenance={},
    )


def generated(stage: Stage, name: str, text: str) -> OutputFile:
    data = jsonl.dump_line({"text": text, "tokens": 3, "hit_limit": False})
    path = f"{layout.stage_prefix('', stage.spec.run_id, 'eval').lstrip('/')}/attempts/a/{name}"
    files.write(paths.join(stage.artifacts, path), data)
    digest = hashlib.sha256(data).hexdigest()
    return OutputFile(name=name, path=path, size_bytes=len(data), sha256=digest)


def test_a_scorer_registered_from_outside_scores_and_is_named_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORERS, "first_letter", Scorer(score_first_letter, "their first letter"))
    stage = eval_stage(tmp_path, "first_letter")
    for name in UPSTREAM:
        records.publish(record(stage, name), stage.artifacts)
    texts = zip(evaluate.SHARD_FILES, ("Answer: Rome", "Answer: Prague"), strict=True)
    shard = record(stage, "eval", tuple(generated(stage, name, text) for name, text in texts))
    assert isinstance(stage.spec, EvalStage)
    evaluate.merge(stage.spec, stage, [shard])
    made = stage.build_record()

    def read(name: str) -> bytes:
        return records.read_output(made.output(name), stage.artifacts)

    report = load_report(read("delta_report.json"), "delta_report.json")
    assert report.header["scorer"] == "first_letter"
    assert (report.overall.base.correct, report.overall.tuned.correct) == (0, 1)
    assert json.loads(read("delta_report.json"))["items"][0]["tuned"] == {
        "answer": "Prague",
        "matched": "P",
        "outcome": "correct",
    }
    assert b"compared by their first letter (scorer `first_letter`)" in read("delta_report.md")
    assert json.loads(read("eval_after.jsonl"))["meta"]["correct"] is True


def test_an_unknown_scorer_lists_the_known() -> None:
    with pytest.raises(
        SpecError, match=r"eval\.scorer 'x' is unknown, expected one of: contains_answer, exact"
    ):
        scorer_named("x")
