"""`promote`, `rollback`, and names of aliases wherever a model is named."""

from __future__ import annotations

import hashlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import Invoke, TinyRun, letter_trace, publish_dataset
from tests.finished_run import publish_run
from tests.model_manifests import publish_manifest, publish_tuned
from tuneloop.artifacts import aliases, layout
from tuneloop.errors import DataError, GateFailed, InputMissing, UsageError
from tuneloop.jsonl import dump_line
from tuneloop.runs.gating.promotion import Author, load_history, promote, rollback
from tuneloop.runs.planning.base_model import (
    find_model,
    find_named_model,
    find_sampled_model,
    find_stored_model,
)
from tuneloop.runs.planning.plan import Plan
from tuneloop.specs.stages import EvalStage, TrainStage
from tuneloop.specs.training.model import PretrainedModelSpec
from tuneloop.storage import files

NOW = datetime(2026, 11, 28, 21, 30, tzinfo=UTC)
ANNA = Author("anna", "better on letters", NOW)
PASSES, FAILS = ("--min-gain", "0.1"), ("--min-accuracy", "0.99")


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two runs with a tuned model each, first-1 and second-2, and the stored model small-llama."""
    for name in ("GITHUB_ACTIONS", "GITLAB_USER_LOGIN", "CI_JOB_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOGNAME", "tester")
    url = str(tmp_path / "artifacts")
    for number, run_id in enumerate(("first-1", "second-2"), start=1):
        publish_tuned(url, run_id, parameters=number)
        files.write(layout.run_manifest_url(url, run_id), b"{}")
    publish_manifest(url)
    return url


@pytest.fixture
def evaluated(artifacts: str) -> str:
    """The same artifacts, in which both runs were evaluated."""
    dataset = publish_dataset(artifacts, [letter_trace(n) for n in range(3)])
    for run_id in ("first-1", "second-2"):
        digest = find_model(run_id, artifacts).manifest.digest
        stages = ("export", "eval", "import")
        publish_run(artifacts, dataset, run_id, stages=stages, tuned_digest=digest)
    return artifacts


def sentence(stderr: str) -> str:
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("tuneloop: ")]
    return line


def test_a_run_that_passes_is_promoted_shown_and_rolled_back(
    tuneloop: Invoke, evaluated: str
) -> None:
    at = ("--artifacts", evaluated)
    code, out, err = tuneloop("promote", "first-1", "--to", "production", *PASSES, *at)
    assert (code, out) == (0, "production: first-1 (change 1)\n"), err
    code, out, _ = tuneloop(
        *("promote", "second-2", "--to", "production", "--fail-if", "not-improved", *at),
        *("--why", "more data 🦊", "--json"),
    )
    change = json.loads(out)
    assert (code, change["number"], change["changed"]) == (0, 2, True)
    assert (change["who"], change["why"], change["ci_run"]) == ("tester", "more data 🦊", None)
    assert change["previous"]["name"] == "first-1"
    assert change["gate"]["conditions"] == {"fail_if": "not-improved"}
    judged = tuneloop("gate", "second-2", "--fail-if", "not-improved", *at, "--json")[1]
    digest = hashlib.sha256(dump_line(json.loads(judged))).hexdigest()
    assert (change["gate"]["passed"], change["gate"]["digest"]) == (True, digest)
    code, out, _ = tuneloop("promote", "second-2", "--to", "production", *PASSES, *at)
    assert (code, out) == (0, "production: names second-2 already (change 2)\n")

    code, out, _ = tuneloop("models", "list", *at)
    assert code == 0
    listed = [line.split() for line in out.splitlines()]
    assert ["alias", "model", "change", "at"] in listed
    assert ["production", "second-2", "2", f"{change['at'][:16]}Z"] in listed
    assert ["passed", "tester"] in listed
    code, out, _ = tuneloop("models", "list", *at, "--json")
    found = json.loads(out)
    assert [each["name"] for each in found["models"]] == ["small-llama"]
    assert [each["alias"] for each in found["aliases"]] == ["production"]

    code, out, _ = tuneloop("rollback", "production", "--why", "complaints", *at)
    assert (code, out) == (0, "production: first-1 (change 3, before second-2)\n")
    code, out, _ = tuneloop("models", "show", "production", *at, "--json")
    shown = json.loads(out)
    assert (shown["name"], shown["alias"]) == ("first-1", "production")
    assert [each["restores"] for each in shown["history"]] == [None, None, 1]
    code, out, _ = tuneloop("models", "show", "production", *at)
    assert "back to 1" in out
    assert "complaints" in out
    code, _, err = tuneloop("rollback", "production", *at)
    assert (code, "named no model before first-1" in sentence(err)) == (2, True)
    code, out, _ = tuneloop("rollback", "production", "--change", "2", *at)
    assert (code, out) == (0, "production: second-2 (change 4, before first-1)\n")


def test_a_failed_or_missing_gate_needs_force_and_a_reason(
    tuneloop: Invoke, evaluated: str
) -> None:
    at = ("--to", "production", "--artifacts", evaluated)
    code, _, err = tuneloop("promote", "first-1", *at, *FAILS)
    assert (code, sentence(err).count("expected a gate that passes")) == (13, 1)
    assert "its gate fails (accuracy is 72.2 %" in sentence(err)
    code, _, err = tuneloop("promote", "first-1", *at)
    assert (code, "no gate was asked, expected a gate that passes" in sentence(err)) == (13, True)
    code, _, err = tuneloop("promote", "small-llama", *at)
    assert (code, "is a stored model, which has no gate" in sentence(err)) == (13, True)
    code, _, err = tuneloop("promote", "small-llama", *at, *PASSES)
    assert (code, "--min-gain: small-llama is a stored model" in sentence(err)) == (2, True)
    code, _, err = tuneloop("promote", "first-1", *at, *FAILS, "--force")
    assert (code, "--force: expected --why with it" in sentence(err)) == (2, True)
    assert not (Path(evaluated) / "models" / "production").exists()

    code, _, err = tuneloop("promote", "first-1", *at, *FAILS, "--force", "--why", "demo")
    assert (code, err) == (0, "warning: promoted although its gate failed or is missing\n")
    (change,) = load_history(evaluated, "production")
    assert change.forced
    assert change.gate is not None
    assert change.gate.problems == ("accuracy is 72.2 % (26 of 36), expected at least 99.0 %",)
    code, out, _ = tuneloop("models", "show", "production", "--artifacts", evaluated)
    assert "failed, forced" in out
    # An alias with a forced model gives no other alias a gate.
    code, _, err = tuneloop("promote", "production", "--to", "live", "--artifacts", evaluated)
    assert (code, sentence(err).count("expected a gate that passes")) == (13, 1)
    assert "its gate fails (accuracy is 72.2 %" in sentence(err)


def test_a_candidate_brings_its_gate(tuneloop: Invoke, evaluated: str) -> None:
    at = ("--artifacts", evaluated)
    assert tuneloop("promote", "first-1", "--to", "candidate", *PASSES, *at)[0] == 0
    code, out, err = tuneloop("promote", "candidate", "--to", "production", *at, "--json")
    assert code == 0, err
    change = json.loads(out)
    assert (change["model"]["name"], change["gate"]["run_id"]) == ("first-1", "first-1")
    assert (change["forced"], change["gate"]["conditions"]) == (False, {"min_gain": 0.1})


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("promote", "no-such-run", "--to", "p"), 12, "neither a model nor a finished run"),
        (("promote", "first-1", "--to", "small-llama"), 2, "is the name of a stored model"),
        (("promote", "first-1", "--to", "second-2"), 2, "is the id of a run"),
        (("promote", "first-1", "--to", "Prod"), 2, "model name 'Prod': expected up to 63"),
        (("promote", "../x", "--to", "p"), 2, "model '../x': expected the name"),
        (("promote", "first-1", "--to", "p", "--who", " "), 2, "--who: is empty"),
        (("promote", "first-1", "--to", "p", "--why", "x" * 2001), 2, "has 2001 characters"),
        (("promote", "first-1", "--to", "p", "--why", "\udc80"), 2, "is not valid text"),
        (("rollback", "p"), 12, "expected the history of alias p; make one with"),
        (("rollback", "../x"), 2, "model name '../x'"),
    ],
)
def test_failures_are_one_sentence(
    arguments: tuple[str, ...], code: int, message: str, tuneloop: Invoke, artifacts: str
) -> None:
    found, _, err = tuneloop(*arguments, "--artifacts", artifacts)
    assert (found, message in sentence(err)) == (code, True), err


def force(artifacts: str, name: str, alias: str = "production", who: str = "anna") -> Any:
    """Promote a model without a gate."""
    author = Author(who, "because", NOW)
    return promote(artifacts, alias, find_named_model(name, artifacts), author, force=True)


def race(artifacts: str, promoters: int) -> None:
    """Promote different models at the same time; each promoter succeeds or is told who did."""
    for number in range(promoters):
        publish_tuned(artifacts, f"run-{number}", parameters=100 + number)

    def attempt(number: int) -> str:
        try:
            return "new" if force(artifacts, f"run-{number}", who=f"p{number}").is_new else "old"
        except UsageError as e:
            assert "at the same time" in str(e)
            return "told"

    with ThreadPoolExecutor(promoters) as pool:
        results = list(pool.map(attempt, range(promoters)))
    history = load_history(artifacts, "production")
    assert len(history) == results.count("new") >= 1
    assert set(results) <= {"new", "told"}
    for before, after in itertools.pairwise(history):
        assert after.previous == before.model  # nobody has replaced a model that he has not seen


def test_of_many_promoters_at_once_each_other_one_is_told(artifacts: str) -> None:
    race(artifacts, 8)


def test_who_loses_the_race_learns_who_won(artifacts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(artifacts, "first-1", who="bob")
    monkeypatch.setattr(aliases, "read_current", lambda artifacts, alias: None)
    named = find_named_model("second-2", artifacts)
    with pytest.raises(UsageError, match="bob has let it name first-1 at the same time"):
        promote(artifacts, "production", named, ANNA, force=True)
    same = find_named_model("first-1", artifacts)
    assert not promote(artifacts, "production", same, ANNA, force=True).is_new


@settings(max_examples=10)
@given(st.lists(st.sampled_from(["first-1", "second-2", "small-llama", "back"]), max_size=8))
def test_rollbacks_undo_promotions_like_a_stack(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    url = str(tmp_path_factory.mktemp("stack"))
    publish_tuned(url, "first-1", parameters=1)
    publish_tuned(url, "second-2", parameters=2)
    publish_manifest(url)
    stack: list[str] = []
    for step in steps:
        if step != "back":
            force(url, step)
            stack += [step] if stack[-1:] != [step] else []
        elif len(stack) < 2:
            with pytest.raises((UsageError, InputMissing)):
                rollback(url, "production", ANNA)
        else:
            rollback(url, "production", ANNA)
            stack.pop()
        if stack:
            found = find_model("production", url)
            assert found.manifest.name == stack[-1]


def test_a_moved_alias_gives_another_plan_and_its_name_does_not(tiny_run: TinyRun) -> None:
    for number, name in enumerate(("first", "second"), start=1):
        publish_manifest(tiny_run.artifacts, name=name, parameters=number)

    def plan(model: str) -> Plan:
        return tiny_run.change(train__model={"kind": "pretrained", "model": model}).plan()

    def train_stage() -> TrainStage:
        stages = plan("production").stages
        return next(each for each in stages if isinstance(each, TrainStage))

    with pytest.raises(InputMissing, match="expected the manifest of model production"):
        plan("production")
    force(tiny_run.artifacts, "first")
    first = train_stage()
    assert plan("first").run_id == plan("production").run_id
    force(tiny_run.artifacts, "second")
    second = train_stage()
    assert first.model is not None
    assert second.model is not None
    assert (first.model.name, second.model.name) == ("first", "second")
    assert first.fingerprint != second.fingerprint
    # What an earlier run started from is still found by its digest.
    old = find_stored_model("production", tiny_run.artifacts, digest=first.model.digest)
    assert old.manifest.name == "first"


def test_a_sampled_alias_thinks_as_its_run_did(artifacts: str) -> None:
    train = {"steps": 1, "batch_size": 1, "max_length_tokens": 64, "thinking": "steps"}
    dataset = publish_dataset(artifacts, [letter_trace(1)])
    publish_run(artifacts, dataset, "first-1", stages=())
    url = layout.run_manifest_url(artifacts, "first-1")
    manifest = json.loads(files.read(url))
    manifest["spec"]["train"] = train
    files.write(url, dump_line(manifest))
    force(artifacts, "first-1")
    force(artifacts, "small-llama", "live")
    for name, thinking in (("production", "steps"), ("live", "plain"), ("small-llama", "plain")):
        spec = PretrainedModelSpec(kind="pretrained", model=name)
        found, mode = find_sampled_model(spec, artifacts)
        assert (found.manifest.digest, mode) == (
            find_model(name, artifacts).manifest.digest,
            thinking,
        )


def test_an_alias_is_a_baseline(tiny_run: TinyRun) -> None:
    publish_tuned(tiny_run.artifacts, "earlier-1")
    force(tiny_run.artifacts, "earlier-1")
    plan = tiny_run.change(eval__baselines=["production"]).plan()
    (stage,) = (each for each in plan.stages if isinstance(each, EvalStage))
    ref = stage.baselines["production"]
    assert ref.digest == find_model("earlier-1", tiny_run.artifacts).manifest.digest


def test_a_replaced_or_deleted_model_is_a_sentence(artifacts: str) -> None:
    force(artifacts, "small-llama", "live")
    publish_manifest(artifacts, parameters=7)
    with pytest.raises(DataError, match="alias live, change 1: small-llama has the digest"):
        find_model("live", artifacts)
    force(artifacts, "first-1")
    force(artifacts, "second-2")
    (Path(artifacts) / "training_runs/first-1/train/record.json").unlink()
    with pytest.raises(InputMissing, match="alias production, change 1: names first-1, which was"):
        rollback(artifacts, "production", ANNA)
    assert find_model("production", artifacts).manifest.name == "second-2"


def test_a_gate_of_another_model_is_refused(tuneloop: Invoke, evaluated: str) -> None:
    publish_run(evaluated, "letters-v1", "third-3", stages=("export", "eval"))
    publish_tuned(evaluated, "third-3", parameters=3)
    code, _, err = tuneloop(
        *("promote", "third-3", "--to", "production", *PASSES, "--artifacts", evaluated)
    )
    assert (code, "its report is about a model with the digest 7c7c" in sentence(err)) == (12, True)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("000001.json", "{", "not a change of an alias"),
        ("000001.json", None, "000001.json: missing, expected the changes 1 to 2"),
        ("000002.json", '"x"', "not a change of an alias"),
    ],
)
def test_a_damaged_history_is_a_sentence(
    artifacts: str, name: str, text: str | None, message: str
) -> None:
    force(artifacts, "first-1")
    force(artifacts, "second-2")
    file = Path(artifacts) / "models/production/history" / name
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(DataError, match=message):
        load_history(artifacts, "production")


def test_a_changed_byte_of_a_change_is_found(artifacts: str) -> None:
    force(artifacts, "first-1")
    file = Path(artifacts) / "models/production/history/000001.json"
    file.write_text(file.read_text().replace("anna", "eve"))
    with pytest.raises(DataError, match="its seal is not the digest of its content"):
        find_model("production", artifacts)


def test_a_broken_alias_does_not_hide_the_others(tuneloop: Invoke, artifacts: str) -> None:
    force(artifacts, "first-1")
    promote(artifacts, "a", find_named_model("second-2", artifacts), ANNA, force=True)
    (Path(artifacts) / "models/production/history/000001.json").write_text("{")
    (Path(artifacts) / "models/a/history/000000.json").write_text("no change has this number")
    code, out, err = tuneloop("models", "list", "--artifacts", artifacts)
    assert (code, "second-2" in out) == (12, True)
    assert "models/production/history/000001.json: not a change" in sentence(err)
    code, out, _ = tuneloop("models", "list", "--artifacts", artifacts, "--json")
    found = json.loads(out)
    assert (code, [each["alias"] for each in found["aliases"]]) == (12, ["a"])
    assert "000001.json" in found["problems"][0]


def test_names_of_models_are_not_folded_in_80_columns(tuneloop: Invoke, artifacts: str) -> None:
    run_id, files_line = "rounds-demo-r1-selected-fae9ebcb", "files "
    publish_tuned(artifacts, run_id, parameters=3)
    named = find_named_model(run_id, artifacts)
    author = Author("somebody-with-a-long-name", "because of " + "many words " * 20, NOW)
    promote(artifacts, "production", named, author, force=True)
    for verb in (("list",), ("show", "production")):
        code, out, err = tuneloop("models", *verb, "--artifacts", artifacts)
        assert (code, run_id in out) == (0, True), err
        assert max(len(line) for line in out.splitlines() if files_line not in line) <= 80
        assert "2026-11-28T21:30Z" in out


def test_verify_says_how_to_repair_the_model_of_a_run(tuneloop: Invoke, artifacts: str) -> None:
    force(artifacts, "first-1")
    code, _, err = tuneloop("models", "verify", "production", "--artifacts", artifacts)
    assert (code, "delete the train record of run first-1" in sentence(err)) == (12, True)


def test_ci_is_named(tuneloop: Invoke, evaluated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTOR": "octocat",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_RUN_ID": "7",
    }.items():
        monkeypatch.setenv(name, value)
    at = ("--artifacts", evaluated)
    assert tuneloop("promote", "first-1", "--to", "candidate", *PASSES, *at)[0] == 0
    (change,) = load_history(evaluated, "candidate")
    assert (change.who, change.ci_run) == ("octocat", "https://github.com/o/r/actions/runs/7")


def test_an_alias_is_no_name_of_a_new_model(tuneloop: Invoke, artifacts: str) -> None:
    force(artifacts, "first-1")
    code, _, err = tuneloop("models", "add", "production", "x", "--artifacts", artifacts)
    assert (code, "model name 'production': is an alias" in sentence(err)) == (2, True)


def test_a_gate_that_passes_counts_for_its_own_run_alone(artifacts: str) -> None:
    gate = aliases.GateOfChange(
        run_id="second-2", passed=True, problems=(), conditions={}, digest="0" * 64
    )
    named = find_named_model("first-1", artifacts)
    with pytest.raises(DataError, match="the gate judged run second-2, expected first-1"):
        promote(artifacts, "production", named, ANNA, gate=gate)
    with pytest.raises(GateFailed, match="no gate was asked"):
        promote(artifacts, "production", named, ANNA)
