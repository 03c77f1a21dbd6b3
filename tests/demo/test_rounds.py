"""Test the demo of rounds: its data and its plan. `runs/rounds/test_real_stages.py` runs stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import REPOSITORY, Invoke
from tuneloop.datasets.read import load_manifest
from tuneloop.demo.rounds import (
    CARELESS,
    CORRECT_SHARE,
    PROMPTS_PER_TASK,
    TRACES,
    prepare_demo,
    prompt_traces,
    seed_traces,
)
from tuneloop.demo.tasks import TASKS, generate, is_held_out
from tuneloop.traces.schema import ReasoningTrace


def answers() -> dict[str, str]:
    """Return the right answer of every problem."""
    return {each.prompt: each.answer for task in TASKS.values() for each in task.problems()}


def test_half_of_the_seed_traces_are_careless() -> None:
    traces, right = seed_traces(), answers()
    assert len(traces) == TRACES
    assert traces == seed_traces()
    for trace in traces[:50]:
        ReasoningTrace.model_validate(trace)
    correct = sum(trace["final_answer"] == right[trace["prompt"]] for trace in traces)
    # A careless author is right by luck if the last number is the largest one.
    assert CORRECT_SHARE - 0.05 < correct / TRACES < CORRECT_SHARE + 0.15


@pytest.mark.parametrize("task", TASKS)
def test_a_careless_author_answers_in_the_same_form(task: str) -> None:
    for problem in generate(task, 40, 3, "train"):
        shown = CARELESS[task](problem)
        assert (shown.prompt, len(shown.steps)) == (problem.prompt, len(problem.steps))
        assert shown.answer in shown.prompt.upper() or shown.answer in shown.prompt
    if task != "largest":
        assert all(CARELESS[task](p).answer != p.answer for p in generate(task, 40, 3, "train"))


def test_prompts_have_right_answers_and_are_in_no_eval_set() -> None:
    traces, right = prompt_traces(), answers()
    assert len({trace["prompt"] for trace in traces}) == len(TASKS) * PROMPTS_PER_TASK
    assert all(trace["final_answer"] == right[trace["prompt"]] for trace in traces)
    assert not any(is_held_out(trace["prompt"]) for trace in traces)
    lines = (REPOSITORY / "eval/demo_v1.jsonl").read_text().splitlines()
    asked = {json.loads(line)["prompt"] for line in lines}
    assert not asked & {trace["prompt"] for trace in (*traces, *seed_traces())}


def test_the_demo_is_planned_without_a_trace_store_and_builds_its_data_once(tmp_path: Path) -> None:
    lines: list[str] = []
    plan = prepare_demo(tmp_path, lines.append)
    assert lines == [
        "dataset  rounds-seed-v1, 4000 traces",
        "dataset  rounds-prompts-v1, 240 traces",
    ]
    assert (plan.seeds, plan.settings.count) == ((0, 1, 2, 3, 4), 2)
    before = load_manifest(plan.artifacts, "rounds-seed-v1")
    assert prepare_demo(tmp_path, lines.append).rounds_id == plan.rounds_id
    assert load_manifest(plan.artifacts, "rounds-seed-v1") == before


def test_one_demo_at_a_time(tuneloop: Invoke) -> None:
    code, _, err = tuneloop("demo", "--real", "--rounds")
    assert code == 2
    assert "expected one of the two" in err
