"""Test rounds from the spec to the report, in a world where the effect of training is planted."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke, TinyRun, make_tiny_run
from tests.cli.test_imports import HEAVY, without
from tests.k8s.twin import IMAGE, Action, Exit, Killed, Twin
from tests.model_manifests import publish_manifest
from tests.runs.rounds.world import World
from tuneloop.artifacts import layout
from tuneloop.artifacts.rounds import store
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs.planning.prepare import Prepared
from tuneloop.runs.rounds.execute import RoundsRun
from tuneloop.runs.rounds.plan import Placement, RoundsPlan, plan_rounds
from tuneloop.runs.rounds.report import RoundsReport, write_report
from tuneloop.runs.rounds.spec_file import load_rounds_file
from tuneloop.runs.rounds.walk import Member
from tuneloop.specs.target import Target
from tuneloop.storage import files

BASE = {"sqlalchemy", "fastapi", "uvicorn", "alembic", "kubernetes", "duckdb", "pyarrow", "rensa"}
"""Packages of `HEAVY` that the image `base` has."""
ROUNDS: dict[str, Any] = {
    "count": 2,
    "seeds": [0, 1],
    "sample": {"prompts": {"kind": "dataset", "dataset": "letters-v1"}, "max_new_tokens": 8},
}


def plan_of(run: TinyRun, placement: Placement | None = None, **changes: Any) -> RoundsPlan:
    run.change(rounds={**ROUNDS, **changes})
    found = load_rounds_file(str(run.spec_path))
    assert found is not None
    return plan_rounds(found, found.spec, placement=placement)


def run_in(world: World, plan: RoundsPlan) -> RoundsReport:
    manifest = RoundsRun(plan, open_backend=world.open).run()
    report, _ = write_report(manifest, plan.artifacts)
    return report


def content(plan: RoundsPlan) -> dict[str, str]:
    """Digest every file that depends on the rounds: their folder, and what datasets hold."""
    root = Path(plan.artifacts)
    folder = Path(layout.rounds_prefix(plan.artifacts, plan.rounds_id))
    found = {str(each.relative_to(folder)): each for each in folder.rglob("*") if each.is_file()}
    found |= {
        f"{each.parent.parent.parent.name}/{each.name}": each
        for each in root.glob("datasets/*/attempts/*/*.jsonl")
    }
    outputs = root.glob("training_runs/*/*/attempts/*/**/*")
    found |= {str(each.relative_to(root)): each for each in outputs if each.is_file()}
    found |= {str(p.relative_to(root)): p for p in root.glob("candidates/*/*.json")}
    return {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in found.items()}


def test_two_rounds_run_all_arms_and_the_selected_one_is_the_next_base(tiny_run: TinyRun) -> None:
    plan, world = plan_of(tiny_run), World()
    report = run_in(world, plan)
    arms = [
        f"{n} {arm} {stage}"
        for n in (1, 2)
        for arm in ("selected", "random", "sft")
        for stage in ("export", "train", "eval")
    ]
    assert set(world.ran) >= {f"0 start {s}" for s in ("export", "train", "eval")} | {
        "1 sample sample",
        "2 sample sample",
    } | {each for each in arms if "sft export" not in each}
    assert not any("import" in each for each in world.ran)
    rows = {(row.seed, row.round, row.role): row for row in report.rows}
    assert len(rows) == 2 * (1 + 2 * 4)
    assert {row.state for row in report.rows} == {"done"}
    for seed in (0, 1):
        first = rows[seed, 1, "selected"]
        assert first.gate == "passed"
        assert first.base == rows[seed, 0, "start"].run_id
        for role in ("sample", "selected", "random", "sft"):
            assert rows[seed, 2, role].base == first.run_id
        for number in (1, 2):
            chosen = store.read_selection(plan.artifacts, plan.rounds_id, seed, number)
            assert chosen is not None
            assert chosen.samples == 100
            assert rows[seed, number, "selected"].examples == chosen.selected == chosen.full_reward
            assert rows[seed, number, "random"].examples == chosen.selected
            assert rows[seed, number, "sft"].examples == 104
    # Two seeds say little; the direction is right.
    assert report.answers[0].comparison is not None
    assert report.answers[0].comparison.gain > 0
    assert [list(each.by_round) for each in report.answers] == [[1, 2], [1, 2], [1], [1, 2]]
    assert any("4 of 4 rounds passed" in each for each in report.sentences)
    (result,) = [each for each in report.sentences if each.startswith("Result")]
    assert all(f"{rows[seed, 2, 'selected'].run_id} (seed {seed})" in result for seed in (0, 1))
    assert any("forgotten on the guarded set" in each for each in report.sentences)


def test_the_next_round_starts_from_the_old_base_if_the_gate_fails(tiny_run: TinyRun) -> None:
    plan = plan_of(tiny_run, seeds=[3])
    report = run_in(World(guard={"selected": 0.0}), plan)
    rows = {(row.round, row.role): row for row in report.rows}
    assert [rows[n, "selected"].gate for n in (1, 2)] == ["failed", "failed"]
    assert "set guarded has regressed" in rows[1, "selected"].problems[0]
    assert rows[2, "selected"].base == rows[0, "start"].run_id
    assert rows[2, "sample"].run_id != rows[1, "sample"].run_id  # other samples, the same model
    assert any("0 of 2 rounds passed" in each for each in report.sentences)
    result = f"that of {rows[0, 'start'].run_id} (seed 3, where no round has passed)"
    assert any(result in each for each in report.sentences)
    assert list(report.answers[2].by_round) == [1, 2]  # both rounds start from the first model
    forgotten = next(each for each in report.answers if each.key == "forgotten")
    assert forgotten.verdict == "regressed"
    assert any("With one seed" in each for each in report.sentences)


def test_a_round_without_selected_samples_goes_on_from_the_old_base(tiny_run: TinyRun) -> None:
    report = run_in(World(correct=lambda skill: 0.0), plan_of(tiny_run, seeds=[3]))
    states = {(row.round, row.role): row.state for row in report.rows}
    assert states[1, "sample"] == states[2, "sample"] == "done"
    assert states[1, "selected"] == states[2, "random"] == "nothing selected"
    assert "not known" in report.answers[0].sentence
    (why,) = [each for each in report.sentences if each.startswith("In 2 of 2 rounds")]
    assert "of 100 samples, 0 have no answer" in why
    assert "the rules reject 100 (where reward: 100)" in why
    assert [(each.counts.usable, each.counts.selected) for each in report.selections] == [
        (100, 0)
    ] * 2


def test_a_verifier_that_accepts_all_leaves_equal_arms(tiny_run: TinyRun) -> None:
    plan, world = plan_of(tiny_run, seeds=[3], count=1), World(correct=lambda skill: 1.0)
    report = run_in(world, plan)
    assert "1 random train" not in world.ran  # its data are those of the arm selected
    comparison = report.answers[0].comparison
    assert comparison is not None
    assert (comparison.gain, report.answers[0].verdict) == (0, "no detectable difference")
    assert any("every usable sample was selected" in each for each in report.sentences)


@pytest.mark.parametrize("name", ["eval/attempts/a/samples.jsonl", "eval/record.json"])
def test_one_broken_run_does_not_hide_the_others(
    tiny_run: TinyRun, tuneloop: Invoke, name: str
) -> None:
    plan = plan_of(tiny_run, count=1)
    report = run_in(World(), plan)
    (run_id,) = [row.run_id for row in report.rows if (row.seed, row.role) == (0, "random")]
    file = Path(layout.run_prefix(plan.artifacts, run_id), name)
    file.write_text("{") if name.endswith("record.json") else file.unlink()
    at = ("--artifacts", tiny_run.artifacts)
    code, out, err = tuneloop("status", plan.rounds_id, *at)
    assert (code, out.count(" done ")) == (0, 9), err
    assert f"{run_id}: " in out
    code, out, err = tuneloop("report", plan.rounds_id, *at)
    assert (code, f"Run {run_id} is not in the comparisons" in out) == (0, True), err
    assert "1 seed)" in out
    again = run_in(World(), plan)
    assert {row.state for row in again.rows if row.seed == 1} == {"done"}
    assert any("Seed 0 has failed" in each for each in again.sentences)


def test_verbs_of_one_run_refuse_the_id_of_rounds(tiny_run: TinyRun, tuneloop: Invoke) -> None:
    plan = plan_of(tiny_run, seeds=[0], count=1)
    run_in(World(), plan)
    for verb in (
        "explain",
        "logs",
        "verify",
        ("gate", "--fail-if", "regressed"),
        ("promote", "--to", "production", "--fail-if", "regressed"),
        ("runs", "delete"),
        ("models", "show"),
        ("models", "export", "out"),
    ):
        words = (verb,) if isinstance(verb, str) else verb
        split = 2 if words[0] in ("runs", "models") else 1
        code, out, err = tuneloop(
            *words[:split], plan.rounds_id, *words[split:], "--artifacts", tiny_run.artifacts
        )
        assert (code, out, err.count("\n")) == (2, "", 1), (verb, err)
        assert "is the id of rounds, expected that of one run" in err
        assert f"`tuneloop status {plan.rounds_id}`" in err


def test_run_verifies_cached_files_of_rounds_as_far_as_asked(
    tiny_run: TinyRun, tuneloop: Invoke
) -> None:
    plan = plan_of(tiny_run, seeds=[0], count=1, arms=["selected"])
    report = run_in(World(), plan)
    (file,) = Path(layout.run_prefix(plan.artifacts, report.rows[0].run_id)).glob(
        "export/attempts/*/examples.jsonl"
    )
    file.write_bytes(file.read_bytes().replace(b"{", b"["))  # of the same size
    code, _, _ = tuneloop("run", tiny_run.spec_path, "--verify-below", "0")
    assert code == 0
    for options in ((), ("--verify-below", "0", "--verify")):
        code, _, err = tuneloop("run", tiny_run.spec_path, *options)
        assert (code, "examples.jsonl" in err) == (12, True), err


@pytest.mark.parametrize("words", [("status",), ("runs", "show"), ("report",), ("cancel",)])
def test_unknown_rounds_are_named(
    tiny_run: TinyRun, tuneloop: Invoke, words: tuple[str, ...]
) -> None:
    code, out, err = tuneloop(*words, "no-rounds-1", "--artifacts", tiny_run.artifacts)
    assert (code, out, err.count("\n")) == (12, "", 1), err
    assert "rounds no-rounds-1: found no rounds of this id below" in err


def test_prompts_and_scorer_are_checked_when_rounds_are_planned(
    tiny_run: TinyRun, tuneloop: Invoke
) -> None:
    eval_set = str(tiny_run.folder / "eval.jsonl")
    sample = ROUNDS["sample"]
    for changed, code, said in (
        ({"prompts": {"kind": "file", "url": eval_set}}, 12, "all 10 prompts are in the eval sets"),
        ({"scorer": "nosuch"}, 3, "rounds.sample.scorer 'nosuch' is unknown"),
    ):
        tiny_run.change(rounds={**ROUNDS, "sample": {**sample, **changed}})
        found, out, err = tuneloop("plan", tiny_run.spec_path)
        assert (found, out, said in err) == (code, "", True), err


def test_a_failed_member_ends_its_chain_alone_and_is_retried(tiny_run: TinyRun) -> None:
    plan = plan_of(tiny_run, count=1)
    failing = World(fails=lambda m, stage: m.place.seed == 0 and m.place.role == "random")
    report = run_in(failing, plan)
    states = {(row.seed, row.round, row.role): row.state for row in report.rows}
    assert states[0, 1, "random"] == "to run"
    assert states[0, 1, "sft"] == "later"
    assert states[1, 1, "sft"] == "done"
    assert any("Seed 0 has failed" in each for each in report.sentences)
    world = World()
    again = run_in(world, plan)
    assert {row.state for row in again.rows} == {"done"}
    assert not any(each.startswith("0 start") for each in world.ran)


def test_rounds_that_are_done_run_nothing_and_other_settings_are_other_rounds(
    tiny_run: TinyRun,
) -> None:
    plan = plan_of(tiny_run, seeds=[0], count=1)
    run_in(World(), plan)
    before = content(plan)
    world = World()
    run_in(world, plan)
    assert (world.ran, content(plan)) == ([], before)
    same = plan_of(tiny_run, seeds=[0], count=1)
    assert same.rounds_id == plan.rounds_id
    supervised_in_the_image_base(tiny_run, same)
    assert content(plan) == {n: d for n, d in before.items() if not n.startswith("report.")}
    assert plan_of(tiny_run, seeds=[0], count=1, max_examples=5).rounds_id != plan.rounds_id


def supervised_in_the_image_base(run: TinyRun, plan: RoundsPlan) -> None:
    """Judge rounds again without the packages that the image has not; the report can be made later.

    All samples and evaluations are there, but not what was selected, the gate and the end.
    """
    folder = Path(layout.rounds_prefix(plan.artifacts, plan.rounds_id))
    for name in ("seed-0", "report.html", "report.md", "report.json"):
        files.delete_tree(str(folder / name))
    found, report = without(
        {*HEAVY, "statsmodels", "tokenizers"} - BASE,
        [
            ("run", run.spec_path),
            ("report", plan.rounds_id, "--artifacts", run.artifacts),
        ],
    )
    assert found[0] == 0, found[1]
    assert "report   not written, because the statistics need the extra eval" in found[1]
    assert f"tuneloop report {plan.rounds_id} --artifacts {run.artifacts}" in found[1]
    assert (report[0], "install the eval extra" in report[1]) == (2, True), report[1]


def test_rounds_that_are_killed_again_and_again_end_with_the_same_bytes(tmp_path: Path) -> None:
    """`tests/runs/rounds/kill.py` does the same with real processes and signals."""
    first = make_tiny_run(tmp_path / "whole")
    whole = plan_of(first, seeds=[0])
    run_in(World(), whole)
    second = make_tiny_run(tmp_path / "killed")
    plan = plan_of(second.change(eval__eval_set=str(first.folder / "eval.jsonl")), seeds=[0])
    assert plan.rounds_id == whole.rounds_id
    rng, kills = random.Random(1), 0

    def die(stage: str) -> None:
        nonlocal kills
        if kills < 6 and rng.random() < 0.4:
            kills += 1
            raise Killed

    while True:
        try:
            run_in(World(before_publish=die), plan)
            break
        except Killed:
            pass
    assert kills == 6
    assert content(plan) == content(whole)


def test_verbs_show_one_table_of_all_rounds_and_arms(tiny_run: TinyRun, tuneloop: Invoke) -> None:
    plan = plan_of(tiny_run, count=1)
    code, out, err = tuneloop("plan", tiny_run.spec_path)
    assert code == 0, err
    assert plan.rounds_id in out
    assert out.count("to run") == 2
    assert out.count("later") == 8
    run_in(World(), plan)
    at = ("--artifacts", tiny_run.artifacts)
    for verb in (
        ("status", plan.rounds_id, *at),
        ("runs", "show", plan.rounds_id, *at),
        ("plan", tiny_run.spec_path),
    ):
        code, out, err = tuneloop(*verb)
        assert code == 0, err
        assert out.count("done") == 10
        found_ids = store.load_rounds(plan.artifacts, plan.rounds_id).members
        assert all(each.run_id in out for each in found_ids)  # not folded, so it can be copied
        assert max(map(len, out.splitlines())) <= 80
        code, out, _ = tuneloop(*verb, "--json")
        found = json.loads(out)
        assert (found["rounds_id"], len(found["runs"])) == (plan.rounds_id, 10)
    code, out, err = tuneloop("report", plan.rounds_id, *at)
    assert code == 0, err
    assert "What the selection was worth" in out
    for arm in ("selected", "random", "sft"):
        assert arm in out
    copied = Path(tiny_run.artifacts) / "copied"
    code, out, _ = tuneloop("report", plan.rounds_id, *at, "--format", "json", "-o", copied)
    folder = Path(layout.rounds_prefix(plan.artifacts, plan.rounds_id))
    for name in ("report.json", "report.md", "report.html"):
        assert (copied / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads(out)["answers"][0]["arm"] == "selected"
    code, _, err = tuneloop("wait", plan.rounds_id, *at)
    assert (code, "found rounds, expected one run" in err) == (2, True), err
    code, out, _ = tuneloop("cancel", plan.rounds_id, *at)
    assert (code, out) == (0, f"{plan.rounds_id}: nothing is left to cancel\n")


def test_broken_files_of_rounds_are_written_anew(tiny_run: TinyRun) -> None:
    plan = plan_of(tiny_run, seeds=[0], count=1)
    run_in(World(), plan)
    before, folder = content(plan), Path(layout.rounds_prefix(plan.artifacts, plan.rounds_id))
    for name in ("rounds.json", "seed-0/round-1/gate.json", "seed-0/ended.json", "report.html"):
        (folder / name).write_bytes(b"{")
    world = World()
    run_in(world, plan)
    assert (world.ran, content(plan)) == ([], before)


def test_rounds_can_start_from_a_stored_model(tiny_run: TinyRun) -> None:
    publish_manifest(tiny_run.artifacts, source="skill 0.5")
    tiny_run.change(train__model={"kind": "pretrained", "model": "small-llama"})
    plan = plan_of(tiny_run, seeds=[0], start="model")
    report = run_in(World(), plan)
    assert [(row.round, row.role) for row in report.rows[:2]] == [(1, "sample"), (1, "selected")]
    assert {row.base for row in report.rows if row.round == 1} == {"small-llama"}
    assert report.rows[-1].base == report.rows[1].run_id
    assert {row.state for row in report.rows} == {"done"}


def test_rounds_run_on_a_cluster_by_any_supervisor(tiny_run: TinyRun) -> None:
    """Their members are Jobs; a supervisor that dies is followed by another one."""
    tiny_run.change(execution__cluster={"namespace": "n"})
    target = Target(image=IMAGE)
    plan = plan_of(tiny_run, Placement(KubernetesBackend, target), seeds=[3], count=1)
    here = plan_of(tiny_run, seeds=[3], count=1)
    assert plan.rounds_id != here.rounds_id  # the image has other code than this machine
    twin, world, known = Twin(), World(), dict[str, Member]()

    def act(pod: dict[str, Any]) -> Action:
        spec = twin.stage_of(pod)
        world.run_stage(known[spec.run_id], spec)
        return Exit(0)

    def opened(member: Member) -> KubernetesBackend:
        known[member.plan.run_id] = member
        placed = member.prepared.backend
        assert isinstance(placed, KubernetesBackend)
        backend = KubernetesBackend(placed.submission, lambda: twin)
        return Prepared(member.plan, backend).start()

    twin.act = act
    twin.kill_at = 60
    with pytest.raises(Killed):
        RoundsRun(plan, open_backend=opened, sleep=twin.sleep).run()
    twin.kill_at = None
    manifest = RoundsRun(plan, open_backend=opened, sleep=twin.sleep).run()
    report, _ = write_report(manifest, plan.artifacts)
    assert {row.state for row in report.rows} == {"done"}
    assert len(world.ran) == len(set(world.ran))  # no stage ran twice
    assert twin.made["Job"] == len(world.ran)
    assert known[report.rows[-1].run_id].plan.manifest(IMAGE).image == IMAGE
