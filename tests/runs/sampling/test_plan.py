"""Plans of sampling runs: what is part of the identity, and what is refused at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.builders import REPOSITORY, Invoke, letter_trace, publish_dataset, write_eval_set
from tests.model_manifests import publish_manifest, publish_tuned
from tests.sampling import Sampling, make_sampling
from tuneloop.artifacts.runs import run_manifest
from tuneloop.artifacts.runs.run_manifest import RunManifest
from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.evaluation.sets.schema import (
    GeneratedSet,
    SetHeader,
    dump_eval_set,
    parse_eval_set,
)
from tuneloop.runs.planning.plan import stage_state, write_run_manifest
from tuneloop.runs.planning.spec_file import load_any_spec, load_run_spec
from tuneloop.runs.sampling.plan import SamplePlan, _check_seeds
from tuneloop.specs.sampling import GymPrompts
from tuneloop.specs.stages import SampleStage


@pytest.fixture
def sampling(tmp_path: Path) -> Sampling:
    made = make_sampling(tmp_path, "small-llama")
    publish_manifest(made.artifacts)
    return made


def stage_of(plan: SamplePlan) -> SampleStage:
    stage = plan.stages[0]
    assert isinstance(stage, SampleStage)
    return stage


def test_a_sampling_run_has_no_import_unless_it_is_asked_for(sampling: Sampling) -> None:
    plan = sampling.plan()
    assert [stage.stage for stage in plan.stages] == ["sample"]
    assert stage_state(plan.stages[0]) == "to run"
    imported = sampling.change(**{"import": {}}).plan()
    assert [stage.stage for stage in imported.stages] == ["sample", "import"]
    assert imported.stages[0].fingerprint == plan.stages[0].fingerprint
    assert imported.stages[1].upstream == {"sample": plan.stages[0].fingerprint}
    assert imported.run_id != plan.run_id


@pytest.mark.parametrize(
    ("changes", "is_other"),
    [
        ({"sample__completions": 3}, True),
        ({"sample__temperature": 0.5}, True),
        ({"sample__max_new_tokens": 9}, True),
        ({"sample__scorer": "exact_match"}, True),
        ({"sample__recipe": "answer_only_v1"}, True),
        ({"sample__instruction": "Be brief."}, True),
        ({"sample__thinking": "steps"}, True),
        ({"sample__round": 1}, True),
        ({"sample__prompts__limit": 3}, True),
        ({"system_instruction": "Be brief."}, True),
        ({"seed": 6}, True),
        # What follows without it is the same.
        ({"sample__recipe": "trace_sft_v1"}, False),
        ({"sample__thinking": "plain"}, False),
        ({"execution__checkpoint_every_steps": 7}, False),
    ],
)
def test_what_the_samples_depend_on_is_their_identity(
    sampling: Sampling, changes: dict[str, Any], is_other: bool
) -> None:
    before = sampling.plan().stages[0].fingerprint
    assert (sampling.change(**changes).plan().stages[0].fingerprint != before) == is_other


def test_contents_are_the_identity_and_places_are_not(sampling: Sampling) -> None:
    write_eval_set(sampling.folder / "a.jsonl")
    prompts = {"kind": "file", "url": str(sampling.folder / "a.jsonl")}
    before = sampling.change(sample__prompts=prompts).plan()
    assert stage_of(before).recipe == "trace_sft_v1"
    assert (before.summary, stage_of(before).dataset) == (None, None)
    for old, new in (("a.jsonl", "b.jsonl"), ("scorer.py", "other/scorer.py")):
        (sampling.folder / new).parent.mkdir(exist_ok=True)
        (sampling.folder / old).rename(sampling.folder / new)
    sampling.change(sample__prompts__url=str(sampling.folder / "b.jsonl"))
    sampling.change(sample__scorer=str(sampling.folder / "other" / "scorer.py"))
    assert sampling.plan().run_id == before.run_id
    with (sampling.folder / "other" / "scorer.py").open("a") as file:
        file.write("# other\n")
    assert sampling.plan().run_id != before.run_id


def test_the_model_can_be_that_of_a_run(sampling: Sampling) -> None:
    tuned = publish_tuned(sampling.artifacts, "tiny-00000001")
    train = {"steps": 1, "batch_size": 1, "max_length_tokens": 8, "thinking": "plain"}
    model = {"kind": "pretrained", "model": "small-llama"}
    made = RunManifest(
        run_id="tiny-00000001",
        spec={"train": {**train, "thinking": "steps", "model": model}},
        seed=1,
        stages={"train": "0" * 64},
    )
    run_manifest.write_run_manifest(made, sampling.artifacts)
    stored = stage_of(sampling.plan())
    of_run = sampling.change(sample__model={"kind": "pretrained", "run": made.run_id}).plan()
    assert (stage_of(of_run).model.digest, stage_of(of_run).thinking) == (tuned.digest, "steps")
    # Nothing else follows from the run: its base model is the stored one.
    of_base = sampling.change(
        sample__model={"kind": "base", "run": made.run_id}, sample__thinking="plain"
    ).plan()
    assert of_base.stages[0].fingerprint == stored.fingerprint
    for kind in ("pretrained", "base"):
        sampling.change(sample__model={"kind": kind, "run": "missing-00000001"})
        with pytest.raises(InputMissing, match="finished train stage of run missing-00000001"):
            sampling.plan()


def test_options_of_the_dataset_are_taken_unless_the_spec_has_its_own(tmp_path: Path) -> None:
    made = make_sampling(tmp_path, "small-llama")
    publish_manifest(made.artifacts)
    plan = made.plan()
    assert (plan.recipe, plan.instruction) == ("trace_sft_v1", None)
    assert plan.manifest(None).recipe == "trace_sft_v1"
    own = made.change(sample__instruction="Say it.", sample__recipe="answer_only_v1").plan()
    assert (own.recipe, own.instruction) == ("answer_only_v1", "Say it.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample__temperature": 0}, r"sample.yaml:\d+: sample: completions is 4, expected a temp"),
        (
            {"sample__prompts": {"kind": "web"}},
            r"sample.prompts.kind is 'web', expected 'dataset' or",
        ),
        ({"sample__model": {"kind": "random"}}, r"sample.model"),
        ({"train": {"steps": 3}}, r"sample.yaml:\d+: train is an unknown key"),
        ({"sample__recipe": "poem"}, r"recipe 'poem'"),
        ({"sample__scorer": "taste"}, r"sample.scorer 'taste'"),
        ({"sample__apart_from": ["http://me:secret@host/a.jsonl"]}, r"sample.apart_from.0: holds"),
    ],
)
def test_wrong_specs_are_refused(sampling: Sampling, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        sampling.change(**changes).plan()


def test_items_that_the_scorer_cannot_use_are_refused_before_sampling(sampling: Sampling) -> None:
    write_eval_set(sampling.folder / "a.jsonl")
    prompts = {"kind": "file", "url": str(sampling.folder / "a.jsonl")}
    with pytest.raises(DataError, match=r"sample.prompts: item letter-0: .*, or sample.scorer"):
        sampling.change(sample__prompts=prompts, sample__scorer="numeric").plan()


def test_seeds_of_an_eval_set_are_not_sampled(sampling: Sampling) -> None:
    write_eval_set(sampling.folder / "a.jsonl")
    place = sampling.folder / "eval.jsonl"
    items = parse_eval_set((sampling.folder / "a.jsonl").read_bytes(), "a")
    generated = GeneratedSet(task="gcd", first_seed=100, seeds=50)
    header = SetHeader(name="gcd", version="1", generated=generated)
    place.write_bytes(dump_eval_set(items, header))
    plan = sampling.change(sample__apart_from=[str(place)]).plan()
    assert [ref.name for ref in plan.eval_sets] == ["gcd"]
    from tuneloop.evaluation.sets.planned import read_kept_apart

    sets = read_kept_apart([str(place)], "sample.apart_from")

    def check(task: str, first: int, seeds: int) -> None:
        prompts = GymPrompts(kind="reasoning_gym", task=task, first_seed=first, seeds=seeds)
        _check_seeds(prompts, sets)

    check("gcd", 0, 100)
    check("gcd", 150, 10)
    check("lcm", 100, 50)
    for first, seeds in ((0, 101), (149, 1), (120, 2), (50, 500)):
        with pytest.raises(
            SpecError, match=r"of gcd overlap .*seeds 100 to 149.*first_seed to 150"
        ):
            check("gcd", first, seeds)


def test_a_training_spec_is_not_taken_for_a_sampling_spec(
    sampling: Sampling, tuneloop: Invoke
) -> None:
    demo = str(REPOSITORY / "jobs" / "configs" / "demo.yaml")
    assert load_any_spec(demo) == load_run_spec(demo)
    code, _, err = tuneloop("trigger", sampling.spec_path)
    assert (code, "has the key sample, expected a training run" in err) == (2, True)
    code, _, err = tuneloop("plan", sampling.spec_path, "--compile")
    assert (code, "--compile: found a run without training" in err) == (2, True)


def test_the_verbs_plan_render_and_check_it(
    sampling: Sampling, tuneloop: Invoke, tmp_path: Path
) -> None:
    code, out, err = tuneloop("plan", sampling.spec_path, "--json", "--seed", 9)
    assert code == 0, err
    found = json.loads(out)
    assert (found["seed"], [row["name"] for row in found["stages"]]) == (9, ["sample"])
    digest = "registry.example/tuneloop@sha256:" + "1" * 64
    cluster = {"namespace": "n", "image": digest, "sample": {"shard_count": 4}}
    sampling.change(execution__cluster=cluster, **{"import": {"batch_traces": 10}})
    code, out, err = tuneloop("plan", sampling.spec_path)
    assert code == 0, err
    assert "memory" in out and "step" not in out
    code, out, err = tuneloop("render", sampling.spec_path, "-o", tmp_path / "rendered")
    assert code == 0, err
    folder = tmp_path / "rendered" / "stages"
    assert sorted(path.name for path in folder.iterdir()) == ["01-sample.yaml", "02-import.yaml"]
    text = (folder / "01-sample.yaml").read_text()
    assert "completions: 4" in text and "completionMode: Indexed" in text
    code, _, err = tuneloop("check", sampling.spec_path)
    assert (code, "execution.artifacts" in err) == (3, True)


def test_the_dataset_can_be_replaced_by_an_option(sampling: Sampling, tuneloop: Invoke) -> None:
    traces = [letter_trace(number) for number in range(3)]
    publish_dataset(sampling.artifacts, traces, dataset_version="v2")
    first = json.loads(tuneloop("plan", sampling.spec_path, "--json")[1])
    code, out, err = tuneloop("plan", sampling.spec_path, "--json", "--dataset", "letters-v2")
    assert code == 0, err
    assert json.loads(out)["run_id"] != first["run_id"]
    write_eval_set(sampling.folder / "a.jsonl")
    sampling.change(sample__prompts={"kind": "file", "url": str(sampling.folder / "a.jsonl")})
    code, _, err = tuneloop("plan", sampling.spec_path, "--dataset", "letters-v2")
    assert (code, "--dataset is" in err) == (2, True)


def test_the_manifest_of_a_run_without_a_dataset_is_listed(
    sampling: Sampling, tuneloop: Invoke
) -> None:
    write_eval_set(sampling.folder / "a.jsonl")
    sampling.change(sample__prompts={"kind": "file", "url": str(sampling.folder / "a.jsonl")})
    plan = sampling.plan()
    write_run_manifest(plan)
    code, out, err = tuneloop("runs", "list", "--artifacts", sampling.artifacts, "--json")
    assert code == 0, err
    (row,) = json.loads(out)["runs"]
    assert (row["run_id"], row["dataset"], row["state"]) == (plan.run_id, "", "sample not started")
    for verb in (("runs", "show"), ("status",), ("explain",), ("runs", "compare", plan.run_id)):
        code, out, err = tuneloop(*verb, plan.run_id, "--artifacts", sampling.artifacts)
        assert code == 0, err
        assert "export" not in out
    code, _, err = tuneloop("report", plan.run_id, "--artifacts", sampling.artifacts)
    assert (code, "it has no eval stage" in err) == (12, True)
    code, out, err = tuneloop("verify", plan.run_id, "--artifacts", sampling.artifacts)
    assert code == 0, out + err
