"""Test the spec of rounds: what is refused before anything runs, with the line."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.builders import Invoke, TinyRun
from tuneloop.errors import SpecError, UsageError
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.runs.rounds.spec import ARMS
from tuneloop.runs.rounds.spec_file import load_rounds_file

PROMPTS = {"prompts": {"kind": "dataset", "dataset": "letters-v1"}}


def load(run: TinyRun, **rounds: Any) -> Any:
    run.change(rounds={"count": 1, "sample": PROMPTS, **rounds})
    return load_rounds_file(str(run.spec_path))


def test_defaults_select_full_rewards_and_have_both_controls(tiny_run: TinyRun) -> None:
    found = load(tiny_run)
    assert found.settings.arms == ARMS
    assert found.settings.select.where["reward"].min == 1
    assert found.settings.gate.fail_if == "regressed"
    assert found.spec.name == "tiny"


def test_other_specs_are_not_rounds(tiny_run: TinyRun) -> None:
    assert load_rounds_file(str(tiny_run.spec_path)) is None
    tiny_run.change(name="rounds")
    assert load_rounds_file(str(tiny_run.spec_path)) is None
    with pytest.raises(UsageError, match="no such file"):
        load_rounds_file("missing.yaml")


def test_rounds_are_no_single_run(tiny_run: TinyRun) -> None:
    load(tiny_run)
    with pytest.raises(
        UsageError, match="has the key rounds, expected one run; use `plan`, `run` or"
    ):
        load_run_spec(str(tiny_run.spec_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": 0}, "count"),
        ({"arm": ["selected"]}, "arm is an unknown key"),
        ({"arms": ["random"]}, "expected the arm `selected`"),
        ({"seeds": [1, 1]}, "has a seed twice"),
        ({"train": {"train.model": {}}}, "sets train.model"),
        ({"train": {"seed": 3}}, "sets seed"),
        ({"train": {"train.stepz": 3}}, "an arm of the rounds is not a valid run"),
        ({"train": {"train.steps": 0}}, "an arm of the rounds is not a valid run"),
        ({"start": "model"}, "train.model has random weights"),
        ({"select": {"where": {"reward": {"min": "high"}}}}, "expected a number"),
        ({"select": {"datasets": {"letters-v1": 1}}}, "select.datasets names datasets"),
        ({"sample": {**PROMPTS, "temperature": 0}}, "temperature"),
        ({"sample": {}}, "prompts"),
        ({"gate": {"fail_if": "never"}}, "fail_if"),
        ({"train": {"train": {"steps": 4}}}, "such as `train.steps: ...`"),
    ],
)
def test_a_mistake_is_refused_with_its_line(
    tiny_run: TinyRun, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError) as refused:
        load(tiny_run, **changes)
    text = str(refused.value)
    assert said in text
    line = int(text.removeprefix(f"{tiny_run.spec_path}:").partition(":")[0])
    lines = tiny_run.spec_path.read_text().splitlines()
    assert line > lines.index("rounds:")


def test_rounds_of_a_sweep_are_refused(tiny_run: TinyRun) -> None:
    tiny_run.change(sweep={"grid": {"seed": [1, 2]}})
    with pytest.raises(SpecError, match="found the keys sweep and rounds, expected one of the two"):
        load(tiny_run)


def test_arms_answer_the_same_questions(tiny_run: TinyRun) -> None:
    tiny_run.change(eval__stop_early=True)
    with pytest.raises(SpecError, match=r"eval\.stop_early is true, expected false"):
        load(tiny_run)


def test_epochs_and_long_names_are_refused(tiny_run: TinyRun) -> None:
    value = yaml.safe_load(tiny_run.spec_path.read_text())
    del value["train"]["steps"]
    value["train"]["epochs"] = 1
    tiny_run.spec_path.write_text(yaml.safe_dump(value))
    with pytest.raises(SpecError, match=r"expected train\.steps"):
        load(tiny_run)
    tiny_run.change(train__steps=2, name="a" * 21)
    value = yaml.safe_load(tiny_run.spec_path.read_text())
    del value["train"]["epochs"]
    tiny_run.spec_path.write_text(yaml.safe_dump(value))
    with pytest.raises(SpecError, match="expected at most 20 characters"):
        load(tiny_run)


@pytest.mark.parametrize("verb", ["submit", "render"])
def test_what_needs_the_whole_plan_is_refused_with_what_works(
    tiny_run: TinyRun, tuneloop: Invoke, verb: str
) -> None:
    load(tiny_run)
    options = ("-o", str(tiny_run.folder / "out")) if verb == "render" else ()
    code, _, err = tuneloop(verb, tiny_run.spec_path, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert "has the key rounds" in err
    assert "use `tuneloop run" in err
    assert "--backend cluster" in err
