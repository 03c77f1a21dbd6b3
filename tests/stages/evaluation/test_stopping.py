"""Evaluations that stop as soon as they are decided; a server answers for the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.backends.server import Fault, Handler, completion, serving
from tests.stages.answering.test_remote import MODELS, spec_of
from tests.stages.answering.test_saved import saved_in
from tests.stages.test_evaluate import eval_stage, write_set
from tuneloop.artifacts.evaluation.delta_report import load_report
from tuneloop.artifacts.evaluation.eval_samples import load_samples
from tuneloop.artifacts.results import EvalCounts, TrainResults
from tuneloop.errors import SpecError, Transient
from tuneloop.evaluation.gates.evidence import evidence_of
from tuneloop.evaluation.gates.limits import Gate, gate_problems
from tuneloop.evaluation.gates.policy import Policy, decide, policy_problems
from tuneloop.evaluation.statistics.sequential import item_order
from tuneloop.specs.stages import EvalStage
from tuneloop.stages import evaluate
from tuneloop.stages.answering import remote
from tuneloop.stages.eval_passes import Asker
from tuneloop.stages.evaluation.models import list_asked, list_models, list_passes
from tuneloop.stages.evaluation.samples import Judge
from tuneloop.stages.evaluation.sets import load_sets
from tuneloop.stages.evaluation.stopping import Questioned, ask_until_decided, chunks_of
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.storage import files, paths
from tuneloop.training.prompt_templates import recipe_named

ITEMS = 240


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 20))
def test_chunks_hold_every_item_once_and_no_part_of_a_group(labels: list[int], first: int) -> None:
    groups = np.array(labels)
    order = item_order(groups, 3)
    chunks = chunks_of(order, groups, first)
    assert [number for chunk in chunks for number in chunk] == order.tolist()
    owners = [{labels[number] for number in chunk} for chunk in chunks]
    assert sum(map(len, owners)) == len(set(labels))
    assert all(len(chunk) >= first for chunk in chunks[:-1])


def test_chunks_grow_by_half_of_what_was_asked() -> None:
    order = np.arange(1000)
    sizes = [len(chunk) for chunk in chunks_of(order, order)]
    assert sizes == [64, 64, 64, 96, 144, 216, 324, 28]


def answers(right_from: dict[str, int]) -> Fault:
    """Answer as models that are right on the questions from a number on."""

    def answer(handler: Handler, number: int) -> bool:
        body = handler.server.bodies[number]
        asked = int(body["messages"][-1]["content"].split()[1])
        is_right = asked >= right_from[body["model"]]
        handler.send(200, completion(f"Answer: {asked if is_right else 'x'}"))
        return True

    return answer


def stage_of(folder: Path, **options: Any) -> Stage:
    write_set(folder / "sums.jsonl", *map(str, range(ITEMS)))
    write_set(folder / "facts.jsonl", *map(str, range(100, 110)))
    sets = [
        {"url": str(folder / "sums.jsonl")},
        {"url": str(folder / "facts.jsonl"), "weight": "guarded", "instruction": False},
    ]
    backend = spec_of("http://h/v1").model_dump()
    return eval_stage(folder, sets=sets, stop_early=True, backend=backend, **options)


def questioned(stage: Stage, server: Any, attempt: str = "a") -> Questioned:
    spec = cast("EvalStage", stage.spec)
    models = list_models(spec, stage.upstream("train").results_as(TrainResults))
    asked = list_asked(models, load_sets(spec, stage))
    with remote.opened(spec_of(server.url), MODELS, "eval.backend") as served:
        asker = Asker(
            MODELS,
            None,
            batch_size=4,
            check_stop=lambda: None,
            progress=lambda step, total, left: stage.progress(step, total),
            remote=served,
            saved=saved_in(Path(stage.artifacts), attempt),
        )
        judge = Judge(recipe_named(spec.dataset.recipe))
        passes = list_passes(spec, stage, asked)
        ended = ask_until_decided(spec, stage, asked, passes, asker, judge)
    evaluate._assemble(spec, stage, models, ended.asked, ended.passes, ended.found, judge)
    return ended


def read(stage: Stage, name: str) -> bytes:
    file = stage.build_record().output(name)
    return files.read(paths.join(stage.artifacts, file.path))


def test_a_clear_gain_stops_the_evaluation_and_nothing_counts_that_was_not_asked(
    tmp_path: Path,
) -> None:
    stage = stage_of(tmp_path)
    with serving(answers({"b": 180, "t": 60})) as server:
        ended = questioned(stage, server)
    asked = len(ended.passes[0].questions)
    assert 64 <= asked < ITEMS and len(server.bodies) == 2 * asked + 20
    samples = load_samples(read(stage, "samples.jsonl").splitlines(), "s")
    report = load_report(read(stage, "delta_report.json"), "r")
    stopping = report.sets[0].stopping
    assert stopping is not None and stopping.decision == report.verdict == "improved"
    assert (stopping.not_asked, stopping.total) == (ITEMS - asked, ITEMS)
    assert report.sets[1].stopping is None and report.sets[1].items == 10
    base, tuned = report.overall.base, report.overall.tuned
    assert base.total == tuned.total == asked and tuned.error == tuned.no_answer == 0
    # Wider than an interval for a fixed number of questions, and it holds the truth, 50 points.
    found = report.overall.paired
    assert found.anytime and found.gain_low is not None and found.gain_high is not None
    assert 0 < found.gain_low < 0.5 < found.gain_high
    sentence = f"stopped after {asked} of {ITEMS} questions of sums, because the result was decided"
    assert sentence.replace(" of sums", "") in report.sentence
    page = read(stage, "delta_report.html").decode()
    assert f"{ITEMS - asked} not asked" in page and "allows for stopping early" in page
    assert f"| {ITEMS - asked} |" in read(stage, "delta_report.md").decode()
    counts = stage.build_record().counts_as(EvalCounts)
    assert (counts.items, counts.not_asked) == (asked, ITEMS - asked)
    # The gate sees the same items in the same order, and none of them is missing.
    assert gate_problems(report, Gate(max_errors=0)) == []
    (evidence, _) = evidence_of(samples, {each.name: each.base for each in report.sets})
    assert evidence.failed == () and len(evidence.not_asked) == ITEMS - asked
    decision = decide(evidence, candidate=1)
    assert decision.decision == "improved" and decision.decided_after == stopping.decided_after
    assert f"({ITEMS - asked} more were not asked)" in decision.sentence
    tenth = {"sums": decide(evidence, candidate=1000)}
    (problem,) = policy_problems(Policy(fail_if="not-improved"), [evidence], tenth)
    assert "evaluate it again with eval.stop_candidate: 1000" in problem
    approved = Policy(approved=frozenset({evidence.not_asked[0]}))
    (problem,) = policy_problems(approved, [evidence], {})
    assert problem.startswith("1 approved items were not asked")


@pytest.mark.parametrize(
    ("right_from", "verdict", "is_short"),
    [
        ({"b": 60, "t": 180}, "regressed", True),
        ({"b": 120, "t": 120}, "no detectable difference", False),
    ],
)
def test_it_stops_in_both_directions_and_asks_everything_while_nothing_is_decided(
    tmp_path: Path, right_from: dict[str, int], verdict: str, is_short: bool
) -> None:
    stage = stage_of(tmp_path)
    with serving(answers(right_from)) as server:
        ended = questioned(stage, server)
    report = load_report(read(stage, "delta_report.json"), "r")
    assert report.verdict == verdict
    assert (len(ended.passes[0].questions) < ITEMS) == is_short == bool(report.not_asked)
    assert report.overall.paired.anytime  # it could have stopped


def test_a_killed_stage_asks_only_what_is_left_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    clear = answers({"b": 180, "t": 60})

    def gone(handler: Handler, number: int) -> bool:
        if number < 100:
            return clear(handler, number)
        handler.send(503, b"")
        return True

    names = ("samples.jsonl", "delta_report.json", "delta_report.html")
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = stage_of(tmp_path / "whole")
    with serving(clear) as server:
        questioned(whole, server)
    stage = stage_of(tmp_path / "killed")
    with serving(gone) as cut, pytest.raises(Transient):
        questioned(stage, cut)
    with serving(clear) as rest:
        questioned(stage, rest, "b")
    assert len(rest.bodies) < len(server.bodies) - 50
    assert [read(stage, name) for name in names] == [read(whole, name) for name in names]
    assert json.loads(stage.progress_json())["step"] > 0


def test_processes_that_share_the_questions_cannot_stop_early(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    stage.shard_count = 3
    with pytest.raises(SpecError, match=r"found 3 processes, expected one"):
        evaluate.run(cast("EvalStage", stage.spec), stage)
