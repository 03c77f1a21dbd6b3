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
from tuneloop.artifacts.evaluation.eval_samples import Context, dump_samples, load_samples
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
from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.evaluation.gates.ledger import attempts
from tuneloop.evaluation.sets.planned import read_sets
from tuneloop.runs.reports.rescore import rescore
from tuneloop.runs.reports.scorer_files import scorers_of
from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.stages import EvalStage
from tuneloop.stages import evaluate
from tuneloop.stages.evaluation import kept
from tuneloop.stages.evaluation.models import list_asked, list_models, list_passes
from tuneloop.stages.evaluation.sets import load_sets
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.storage import files, paths
from tuneloop.traces.schema import parse_trace
from tuneloop.training.prompt_templates import recipe_named


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


def eval_stage(folder: Path, **options: Any) -> Stage:
    """Build the stage of an evaluation of sets that exist."""
    spec = stage_specs()["eval"]
    assert isinstance(spec, EvalStage)
    chosen = EvalSpec.model_validate({"allow_unchecked": True, **options})
    update = {
        "upstream": {"export": "1" * 64, "train": "2" * 64},
        "options": chosen,
        "eval_sets": read_sets(chosen),
        "execution": spec.execution.model_copy(update={"artifacts": str(folder / "artifacts")}),
    }
    started = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
    stage = Stage(spec.model_copy(update=update), started_at=started, attempt="a")
    examples = [
        {"id": f"e-{number}", "prompt": f"p {number}", "response": "Answer: r", "metadata": {}}
        for number in range(2)
    ]
    data = b"".join(map(jsonl.dump_line, examples))
    exported = written(stage, "export", "examples-00000-of-00001.jsonl", data)
    records.publish(record(stage, "export", (exported,)), stage.artifacts)
    records.publish(record(stage, "train"), stage.artifacts)
    return stage


COUNTS = {
    "export": dict.fromkeys(ExportCounts.model_fields, 0),
    "train": dict.fromkeys(TrainCounts.model_fields, 1),
}
UPSTREAM = {
    "export": ExportResults(
        contamination=Contamination(policy="off", excluded=0, kept=0),
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
        counts=COUNTS.get(name, {}),
        results=UPSTREAM[name].model_dump() if name in UPSTREAM else {},
        started_at="2026-11-22T00:00:00+00:00",
        seconds=1.0,
        provenance={},
    )


def written(stage: Stage, of: str, name: str, data: bytes) -> OutputFile:
    """Write an output of a stage of the run."""
    path = f"training_runs/{stage.spec.run_id}/{of}/attempts/a/{name}"
    files.write(paths.join(stage.artifacts, path), data)
    digest = hashlib.sha256(data).hexdigest()
    rows = data.count(b"\n")
    return OutputFile(name=name, path=path, size_bytes=len(data), sha256=digest, rows=rows)


def generated(stage: Stage, asked: str, *texts: str) -> OutputFile:
    """Write the generations of a pass, the last answer first, as shards may.

    Args:
        stage: the eval stage.
        asked: numbers of model and set, such as `0_1` for the base model and the second set.
        texts: the answers.
    """
    rows = [
        {"item": number, "text": text, "tokens": 3, "hit_limit": text.endswith("...")}
        for number, text in enumerate(texts)
    ]
    data = b"".join(jsonl.dump_line(row) for row in reversed(rows))
    return written(stage, "eval", f"generations_{asked}.jsonl", data)


def merged(stage: Stage, **passes: tuple[str, ...]) -> tuple[Callable[[str], bytes], Record]:
    """Merge one shard with these generations.

    Args:
        stage: the eval stage.
        passes: m, the numbers of model and set -> the answers.

    Returns:
        A function that reads an output, and the record.
    """
    assert isinstance(stage.spec, EvalStage)
    outputs = (generated(stage, name[1:], *texts) for name, texts in passes.items())
    evaluate.merge(stage.spec, stage, [record(stage, "eval", tuple(outputs))])
    made = stage.build_record()
    return lambda name: records.read_output(made.output(name), stage.artifacts), made


def test_the_verdict_compares_with_the_better_prompt_and_the_guard_counts_what_is_lost(
    tmp_path: Path,
) -> None:
    write_set(tmp_path / "set.jsonl", "Paris", "5", "b")
    digest = write_set(tmp_path / "general.jsonl", "Rome", "4", "blue")
    stage = eval_stage(
        tmp_path,
        eval_set=str(tmp_path / "set.jsonl"),
        base_examples=2,
        guard_set=str(tmp_path / "general.jsonl"),
    )
    read, made = merged(
        stage,
        m0_0=("Paris", "I do not know", ""),
        m1_0=("Answer: Paris", "Answer: 6", "Answer: b"),
        m2_0=("Answer: Paris", "Answer: 5", "Answer: a"),
        m0_1=("It is Rome.", "Answer: 4", "no idea"),
        m2_1=("Answer: Rome", "Answer: 44", "blue"),
    )
    counts, results = made.counts_as(EvalCounts), made.results_as(EvalResults)
    assert (counts.base_correct, counts.tuned_correct, counts.regressions) == (2, 2, 1)
    assert (results.base_examples, results.by_base_examples) == (2, {0: 0.0, 2: 2 / 3})
    assert (counts.guard_items, counts.guard_base_correct, counts.guard_kept) == (3, 2, 1)
    assert results.guard_kept_low is not None and results.guard_kept_low < 0.5
    assert made.inputs["eval_set general"] == digest
    report = read("delta_report.md").decode()
    assert "# Delta report: no detectable difference, from random weights" in report
    assert "the base model with 2 examples, where it scores best" in report
    assert "kept for all runs with the same model, questions, decoding and code" in report
    assert "Tuning cost 1 of the 2 general questions" in report
    shown = [json.loads(line) for line in read("eval_before_with_examples.jsonl").splitlines()]
    assert [trace["meta"]["outcome"] for trace in shown] == ["correct", "wrong", "correct"]
    assert {trace["meta"]["model_digest"] for trace in shown} == {"b" * 64}
    assert shown[0]["meta"].keys().isdisjoint({"sample", "eval_set"})
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
    assert found.samples[0].lenient_score.state == "correct"
    assert found.samples[2].text == "" and found.items["general", "x-2"].expected_answer == "blue"


def test_any_number_of_sets_with_their_own_scorers_and_samples(tmp_path: Path) -> None:
    for name, answers in {"a": ("1", "2"), "b": ("Rome",), "c": ("x", "y")}.items():
        write_set(tmp_path / f"{name}.jsonl", *answers)
    sets: list[dict[str, Any]] = [
        {"url": str(tmp_path / "a.jsonl"), "name": "sums 🟡", "samples": 2, "temperature": 0.5},
        {"url": str(tmp_path / "b.jsonl"), "weight": "informative", "scorer": "contains_answer"},
        {"url": str(tmp_path / "c.jsonl"), "instruction": False},
    ]
    stage = eval_stage(tmp_path, sets=sets)
    read, made = merged(
        stage,
        m0_0=("Answer: 1", "Answer: 3", "so 2 ...", "Answer: 2"),
        m0_1=("in Rome",),
        m0_2=("Answer: x", "Answer: x"),
        m1_0=("Answer: 1", "Answer: 1", "Answer: 2", "Answer: 2"),
        m1_1=("Paris",),
        m1_2=("Answer: x", "Answer: y"),
    )
    found = load_samples(read("samples.jsonl").splitlines(), "samples.jsonl")
    said = {
        (each.set, each.item, each.model, each.sample): each.score.state for each in found.samples
    }
    assert len(said) == len(found.samples) == 14
    assert [said["sums 🟡", "x-0", "base", sample] for sample in (0, 1)] == ["correct", "wrong"]
    assert [said["sums 🟡", "x-1", "base", sample] for sample in (0, 1)] == ["truncated", "correct"]
    assert [said["b", "x-0", name, 0] for name in ("base", "tuned")] == ["correct", "wrong"]
    assert [each.samples for each in found.sets.values()] == [2, 1, 1]
    counts = made.counts_as(EvalCounts)
    assert (counts.items, counts.guard_items, counts.tuned_correct) == (4, 0, 6)
    traces = [json.loads(line)["meta"] for line in read("eval_after.jsonl").splitlines()]
    assert [(each["eval_set"], each.get("sample")) for each in traces] == [
        *(("sums 🟡", 0), ("sums 🟡", 1), ("sums 🟡", 0), ("sums 🟡", 1)),
        *(("c", None), ("c", None)),
    ]


def test_items_of_a_chat_are_asked_scored_and_kept_as_a_chat(tmp_path: Path) -> None:
    before = [{"role": "user", "content": "Capital of Italy? \u202b🟡"}]
    tool = {"type": "function", "function": {"name": "look"}}
    chat = {"system": "Be brief.", "messages": before, "tools": [tool], "bare_answer": True}
    items: list[dict[str, Any]] = [
        {"id": "x-0"},
        {"id": "x-1", **chat},
        {"id": "x-2", "bare_answer": True},
    ]
    common = {"prompt": "And of France?", "expected_answer": "Paris", "category": "c"}
    lines = [jsonl.dump_line({**common, **each}) for each in items[:2]]
    lines.append(jsonl.dump_line({**common, **items[2], "prompt": "France?"}))
    (tmp_path / "set.jsonl").write_bytes(b"".join(lines))
    stage = eval_stage(tmp_path, eval_set=str(tmp_path / "set.jsonl"), base_examples=1)
    assert isinstance(stage.spec, EvalStage)
    train = UPSTREAM["train"]
    assert isinstance(train, TrainResults)
    asked = list_asked(list_models(stage.spec, train), load_sets(stage.spec, stage))
    plain, shown, _ = (each.questions for each in list_passes(stage.spec, stage, asked))
    assert [question.context is None for question in plain] == [True, False, True]
    context = Context(system="Be brief.", messages=tuple(before), tools=(tool,))
    assert plain[1].context == shown[1].context == context
    assert [len(question.shots) for question in shown] == [1, 1, 1]

    read, made = merged(
        stage,
        m0_0=("Answer: Paris", "Answer: Paris", "Paris..."),
        m1_0=("Paris", " ", "It is Paris"),
        m2_0=("Answer: Paris", " Paris\n", "Reasoning:\nLet me see.\n\nPARIS"),
    )
    found = load_samples(read("samples.jsonl").splitlines(), "samples.jsonl")
    states = [each.score.state for each in found.samples]
    assert states == [
        *("correct", "wrong", "truncated"),
        *("no_answer", "no_answer", "wrong"),
        *("correct", "correct", "correct"),
    ]
    again = rescore(found, recipe_named("trace_sft_v1"))
    assert [each.score for each in again.samples] == [each.score for each in found.samples]
    traces = [json.loads(line) for line in read("eval_after.jsonl").splitlines()]
    assert "messages" not in traces[0]
    assert {name: traces[1].get(name) for name in ("system", "messages", "tools")} == {
        name: chat[name] for name in ("system", "messages", "tools")
    }
    assert (traces[1]["steps"], traces[1]["final_answer"]) == ([], "Paris")
    assert [step["content"] for step in traces[2]["steps"]] == ["Let me see."]
    assert [trace["meta"].get("bare_answer") for trace in traces] == [None, True, True]
    for number, trace in enumerate(traces, start=1):
        parse_trace(trace, "eval_after.jsonl", number)
    assert made.counts_as(EvalCounts).tuned_correct == 3


def test_a_scorer_that_a_user_wrote_scores_and_its_digest_is_an_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "set.jsonl", "Paris", "Rome")
    scorer = tmp_path / "first letter.py"
    scorer.write_text(
        "def score(completion, item):\n"
        "    return {'value': 0.5 * (completion[0] == item.expected_answer[0])}\n"
    )
    sets = [{"url": str(tmp_path / "set.jsonl"), "scorer": str(scorer)}]
    stage = eval_stage(tmp_path, sets=sets)
    passes = {"m0_0": ("Answer: Oslo", "Answer: x"), "m1_0": ("Answer: Prague", "Answer: x")}
    read, made = merged(stage, **passes)
    found = load_samples(read("samples.jsonl").splitlines(), "samples.jsonl")
    assert [each.score.value for each in found.samples] == [0, 0, 0.5, 0]
    assert found.sets["set"].scorer == "first letter.py"
    digest = hashlib.sha256(scorer.read_bytes()).hexdigest()
    assert made.inputs["scorer set"] == digest
    # The run alone is enough to score again, but its code runs only where it is allowed.
    with pytest.raises(SpecError, match=r"first letter\.py is a Python file .* not allowed to run"):
        scorers_of(found, made, stage.artifacts)
    monkeypatch.setenv("TUNELOOP_ALLOW_SCORERS", "code, file")
    recipe = recipe_named("trace_sft_v1")
    assert rescore(found, recipe, scorers_of(found, made, stage.artifacts)) == found
    without = made.model_copy(update={"outputs": made.outputs_like("samples")})
    with pytest.raises(InputMissing, match="is not among the outputs of the evaluation"):
        scorers_of(found, without, stage.artifacts)
    path = Path(stage.artifacts, made.output(f"scorers/{digest}.py").path)
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(DataError, match="sha256"):
        scorers_of(found, made, stage.artifacts)
    scorer.write_text("def score(completion, item): return True\n")
    with pytest.raises(DataError, match=r"first letter\.py: changed after the run was planned"):
        merged(stage, **passes)


def test_every_model_that_was_compared_and_reported_is_in_the_ledger(tmp_path: Path) -> None:
    digests = [write_set(tmp_path / f"s{n}.jsonl", *"ab"[: n + 1]) for n in range(2)]
    digests.append(write_set(tmp_path / "s2.jsonl", "b"))
    weights = ("required", "guarded", "informative")
    sets = [
        {"url": str(tmp_path / f"s{n}.jsonl"), "weight": weight} for n, weight in enumerate(weights)
    ]
    stage = eval_stage(tmp_path, sets=sets)

    def tried() -> list[list[tuple[int, str]]]:
        listed = (attempts(stage.artifacts, base="b" * 64, eval_set=each) for each in digests)
        return [[(one.number, one.candidate[0]) for one in own] for own in listed]

    answers = {
        f"m{model}_{n}": ("Answer: a",) * count
        for model in range(2)
        for n, count in enumerate((1, 2, 1))
    }
    assert tried() == [[], [], []]
    for _ in range(2):  # the same model again is no other candidate
        merged(stage, **answers)
        assert tried() == [[(1, "t")], [(1, "t")], []]
    train = UPSTREAM["train"].model_copy(update={"tuned_digest": "u" * 64})
    later = eval_stage(tmp_path / "later", sets=sets)
    found = record(later, "train").model_copy(update={"results": train.model_dump()})
    later._upstream["train"] = found
    later.artifacts = stage.artifacts
    merged(later, **answers)
    assert tried() == [[(1, "t"), (2, "u")], [(1, "t"), (2, "u")], []]


def test_a_scorer_that_runs_programs_is_refused_before_a_model_is_asked(tmp_path: Path) -> None:
    write_set(tmp_path / "set.jsonl", "Paris")
    stage = eval_stage(tmp_path, sets=[{"url": str(tmp_path / "set.jsonl"), "scorer": "code"}])
    assert isinstance(stage.spec, EvalStage)
    with pytest.raises(SpecError, match="runs programs that a model wrote and is not allowed"):
        evaluate.run(stage.spec, stage)


def test_answers_of_the_base_are_kept_and_those_of_the_tuned_model_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_set(tmp_path / "set.jsonl", "Paris", "5")
    stage = eval_stage(tmp_path, eval_set=str(tmp_path / "set.jsonl"), base_examples=1)
    answers = ("Answer: Páris 🟡", "")
    merged(stage, m0_0=answers, m1_0=answers, m2_0=answers)
    spec = stage.spec
    assert isinstance(spec, EvalStage)
    kept_files = list((tmp_path / "artifacts" / "eval_answers").iterdir())
    assert len(kept_files) == 2  # the base without and with examples

    def find(spec: EvalStage) -> list[bool]:
        sets = load_sets(spec, stage)
        asked = list_asked(list_models(spec, TrainResults(**UPSTREAM["train"].model_dump())), sets)
        found = [
            kept.find_answers(spec, stage, one, each)
            for one, each in zip(asked, list_passes(spec, stage, asked), strict=True)
        ]
        assert all(
            each is None or [one.text for one in each.values()] == [*answers] for each in found
        )
        return [each is not None for each in found]

    with caplog.at_level("INFO", logger="tuneloop.stage"):
        assert find(spec) == [True, True, False]
    assert f"are those that run {spec.run_id} has kept in" in caplog.text
    # What the answers depend on makes them other answers; what they do not depend on does not.
    other = spec.options.model_copy(update={"max_new_tokens": 7})
    assert find(spec.model_copy(update={"options": other})) == [False] * 3
    assert find(spec.model_copy(update={"system_instruction": "Be brief."})) == [False] * 3
    assert find(spec.model_copy(update={"run_id": "other-1"})) == [True, True, False]
    # A damaged object is noticed, not used, and replaced.
    for path in kept_files:
        path.write_bytes(path.read_bytes().replace("Páris".encode(), b"Rome!!"))
    assert find(spec) == [False] * 3
    assert "is damaged and not used" in caplog.text
    merged(stage, m0_0=answers, m1_0=answers, m2_0=answers)
    assert find(spec) == [True, True, False]


def test_an_older_record_has_no_guard_and_no_interval() -> None:
    old = {"accuracy_base": 0.5, "accuracy_tuned": 1.0, "by_category": {}, "verdict": "improved"}
    assert EvalResults.model_validate(old).gain_low is None
    counted = {"items": 2, "base_correct": 1, "base_no_answer": 0, "tuned_correct": 2}
    assert (
        EvalCounts.model_validate({**counted, "tuned_no_answer": 0, "regressions": 0}).guard_items
        == 0
    )
