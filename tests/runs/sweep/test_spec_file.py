"""Test that every broken sweep is refused with its line, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.builders import Invoke, TinyRun
from tuneloop.errors import SpecError, UsageError
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.runs.sweep.spec_file import SweepFile, load_sweep_file

GRID = {"train.optimizer.learning_rate": [0.02, 0.01], "seed": [1, 2]}


def load(run: TinyRun, **sweep: Any) -> SweepFile:
    run.change(sweep=sweep)
    found = load_sweep_file(str(run.spec_path))
    assert found is not None
    return found


def refused(run: TinyRun, **sweep: Any) -> str:
    with pytest.raises(SpecError) as caught:
        load(run, **sweep)
    return str(caught.value)


def test_a_spec_without_a_sweep_is_no_sweep(tiny_run: TinyRun) -> None:
    assert load_sweep_file(str(tiny_run.spec_path)) is None
    tiny_run.change(system_instruction="sweep: the floor")
    assert load_sweep_file(str(tiny_run.spec_path)) is None
    assert load_run_spec(str(tiny_run.spec_path)).system_instruction == "sweep: the floor"
    with pytest.raises(UsageError, match="no such file, expected a run spec"):
        load_sweep_file(str(tiny_run.folder / "nothing.yaml"))


def test_members_are_specs_of_their_own(tiny_run: TinyRun) -> None:
    members = load(tiny_run, grid=GRID).members  # the keys of the file are in another order
    assert [each.label for each, _ in members] == [
        "seed=1 learning_rate=0.02",
        "seed=1 learning_rate=0.01",
        "seed=2 learning_rate=0.02",
        "seed=2 learning_rate=0.01",
    ]
    assert [(s.train.optimizer.learning_rate, s.seed) for _, s in members] == [
        (0.02, 1),
        (0.01, 1),
        (0.02, 2),
        (0.01, 2),
    ]
    method = [{"train.method": {"kind": "lora", "rank": 4}}, {"import": {}}, {}]
    members = load(tiny_run, list=method).members[:1]
    assert members[0][1].train.method.kind == "lora"


def test_a_required_field_may_come_from_the_sweep_alone(tiny_run: TinyRun) -> None:
    value = yaml.safe_load(tiny_run.spec_path.read_text())
    del value["train"]["steps"]
    tiny_run.spec_path.write_text(yaml.safe_dump(value))
    members = load(tiny_run, grid={"train.steps": [3, 4]}).members
    assert [spec.train.steps for _, spec in members] == [3, 4]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (
            {"grid": {"train.optimizer.lerning_rate": [1]}},
            "member 1 of the sweep (lerning_rate=1): train.optimizer.lerning_rate is an unknown"
            " key, expected only keys of train.optimizer: learning_rate",
        ),
        ({"grid": {"nothing.here": [1]}}, "nothing is an unknown key"),
        (
            {"grid": {"train.steps": [3, "many"]}},
            "member 2 of the sweep (steps=many): train.steps is 'many', expected a valid integer",
        ),
        ({"grid": {"train.accumulation_steps": [3]}}, "accumulation_steps is 3, expected a divis"),
        ({"list": [{"seed": 1}, {"seed": -1}]}, "member 2 of the sweep (seed=-1): seed is -1"),
        ({"grid": {"name.x": [1]}}, "name.x is an unknown path, because name is 'tiny'"),
        ({"grid": {"Seed 🟡": [1]}}, "sweep: grid"),
        ({"grid": {}}, "grid is empty, expected at least one member"),
        ({"list": []}, "list is empty, expected at least one member"),
        ({"grid": {"seed": []}}, "grid.seed is empty, expected a list of values"),
        ({"grid": {"seed": 3}}, "grid.seed is 3, expected a valid list"),
        ({}, "expected one of the two keys `grid` and `list`"),
        ({"grid": {"seed": [1]}, "list": [{"seed": 1}]}, "expected one of the two keys"),
        ({"grid": {"seed": [1]}, "paralelism": 2}, "paralelism is an unknown key"),
        ({"grid": {"seed": list(range(101))}}, "sweep has 101 members, expected at most"),
        ({"grid": {"seed": [1]}, "max_members": 5000}, "max_members is 5000, expected"),
        ({"grid": {"seed": [1]}, "budget_chip_hours": 0}, "budget_chip_hours is 0, expected"),
        (
            {"grid": {"seed": [1]}, "early_stop": {"kind": "median"}},
            "sweep.early_stop needs a validation loss, but member 1 of the sweep (seed=1) has no"
            " train.validation",
        ),
    ],
)
def test_a_broken_sweep_is_one_sentence_with_place_and_remedy(
    tiny_run: TinyRun, sweep: dict[str, Any], message: str
) -> None:
    said = refused(tiny_run, **sweep)
    assert message in said
    place, line, _ = said.split(":", 2)
    assert place == str(tiny_run.spec_path)
    lines = tiny_run.spec_path.read_text().splitlines()
    assert int(line) >= lines.index(next(x for x in lines if x.startswith("sweep:"))) + 1
    assert "\n" not in said
    assert ";" in said or "," in said


@pytest.mark.parametrize("value", [None, 3, "grid", [1]])
def test_a_sweep_that_is_no_mapping(tiny_run: TinyRun, value: Any) -> None:
    tiny_run.change(sweep=value)
    with pytest.raises(SpecError, match="sweep"):
        load_sweep_file(str(tiny_run.spec_path))


def test_an_error_outside_the_sweep_is_the_same_as_without_it(tiny_run: TinyRun) -> None:
    tiny_run.change(train__batch_size="none")
    with pytest.raises(SpecError) as alone:
        load_run_spec(str(tiny_run.spec_path))
    said = refused(tiny_run, grid=GRID)
    assert said.split(": ", 1)[1] == str(alone.value).split(": ", 1)[1]


def test_verbs_for_one_run_refuse_a_sweep(tiny_run: TinyRun, tuneloop: Invoke) -> None:
    load(tiny_run, grid=GRID)
    code, _, err = tuneloop("check", tiny_run.spec_path)
    assert code == 2
    assert "has the key sweep, expected one run; use `plan`, `run` or `submit`" in err
    code, _, err = tuneloop("plan", tiny_run.spec_path, "--seed", "4")
    assert code == 2
    assert "--seed: the sweep varies seed, expected one of the two" in err


def test_members_that_only_run_elsewhere_are_the_same_run(
    tiny_run: TinyRun, tuneloop: Invoke
) -> None:
    load(tiny_run, grid={"execution.checkpoint_every_steps": [3, 4]})
    code, _, err = tuneloop("plan", tiny_run.spec_path)
    assert code == 3
    assert "members 1 and 2 of the sweep are the same run tiny-" in err
    assert "expected values that change the result; remove one" in err
    load(tiny_run, grid={"execution.artifacts": [tiny_run.artifacts], "seed": [1, 2]})
    assert tuneloop("plan", tiny_run.spec_path)[0] == 0
