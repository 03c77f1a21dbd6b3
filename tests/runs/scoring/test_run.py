"""A scoring run: plan, run, look, import, share the work, and render it for a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import Invoke
from tuneloop.artifacts import records
from tuneloop.errors import InputMissing, SpecError
from tuneloop.runs.planning.any_plan import load_any_plan
from tuneloop.runs.planning.spec_file import load_any_spec
from tuneloop.runs.scoring.plan import ScorePlan
from tuneloop.stages.lifecycle.contract import run_stage
from tuneloop.traces.client import TraceClient

ANSWERS = ("1", "2", "7", "4 ", "five", "6", "7", "x")
"""Final answers to `What is N + 1?`; the last trace has no expected answer."""


class Scoring:
    """A scoring spec and what it names, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.artifacts = folder, str(folder / "artifacts")
        self.spec_path, self.set_path = folder / "score.yaml", folder / "set.jsonl"
        items = (
            {"id": f"q{n}", "prompt": f"What is {n} + 1?", "expected_answer": str(n + 1)}
            for n in range(len(ANSWERS) - 1)
        )
        lines = (json.dumps({**item, "category": "sums"}) + "\n" for item in items)
        self.set_path.write_text("".join(lines))
        self.spec: dict[str, Any] = {
            "name": "sums",
            "score": {"dataset": "d-v1", "scorer": "numeric", "expected": str(self.set_path)},
            "execution": {"artifacts": self.artifacts},
        }

    def write(self, **changes: Any) -> Path:
        """Write the spec; keywords replace or add keys at its top."""
        self.spec_path.write_text(yaml.safe_dump({**self.spec, **changes}))
        return self.spec_path

    def plan(self, **options: Any) -> ScorePlan:
        """Plan the run with these options of the stage changed."""
        self.write(score={**self.spec["score"], **options})
        found = load_any_plan(load_any_spec(str(self.spec_path)))
        assert isinstance(found, ScorePlan)
        return found


@pytest.fixture
def traces(make_trace: Any) -> list[dict[str, Any]]:
    return [make_trace(n, final_answer=answer) for n, answer in enumerate(ANSWERS)]


@pytest.fixture
def scoring(tmp_path: Path, traces: list[dict[str, Any]]) -> Scoring:
    """A spec, and a dataset that was built without a store."""
    from tests.builders import publish_dataset

    made = Scoring(tmp_path)
    publish_dataset(made.artifacts, traces, shard_rows=3, dataset_name="d")
    return made


def rows_of(made: Scoring, run_id: str) -> list[dict[str, Any]]:
    record = records.find(made.artifacts, run_id, "score")
    assert record is not None
    data = records.read_output(record.output("scores.jsonl"), made.artifacts)
    return [json.loads(line) for line in data.splitlines()]


def test_scores_reach_the_store_and_every_verb_knows_the_run(
    tmp_path: Path, store_url: str, artifacts: Path, traces: Any, tuneloop: Invoke
) -> None:
    with TraceClient(store_url) as client:
        ids = client.post_batch(traces, "k")
        client.build_dataset({"dataset_name": "d", "dataset_version": "v1"})
        client.send("POST", f"/api/traces/{ids[0]}/labels", {"value": 1, "who": "ada"})
    made = Scoring(tmp_path)
    made.artifacts = str(artifacts)
    place = {"artifacts": made.artifacts, "store_url": store_url}
    spec = made.write(execution=place, **{"import": {}})
    code, out, err = tuneloop("run", spec, "--json")
    assert code == 0, err
    found = json.loads(out)
    run_id = found["run_id"]
    assert [row["name"] for row in found["stages"]] == ["score", "import"]
    assert found["scores"] == {
        **{"traces": 8, "scored": 7, "no_expected_answer": 1, "unscorable": 0},
        **{"total": 5.0, "mean": 5 / 7},
    }
    with TraceClient(store_url) as client:
        for trace_id, row in zip(ids, reversed(rows_of(made, run_id)), strict=True):
            stored = client.send("GET", f"/api/traces/{trace_id}/scores")["data"]
            assert [one["score"] for one in stored] == [row["score"]] * (row["score"] is not None)
    code, out, err = tuneloop("run", spec)
    assert (code, "cached" in out, "7 of 8 traces scored" in out) == (*(0, True, True),), (out, err)
    where = ("--artifacts", made.artifacts)
    for verb, said in (
        (("plan", spec), "score"),
        (("status", run_id, *where), "done"),
        (("runs", "show", run_id, *where), "mean score 0.714"),
        (("runs", "list", *where), "finished"),
        (("runs", "compare", run_id, run_id, *where), ""),
        (("logs", run_id, "score", *where), "published after"),
        (("verify", run_id, *where), ""),
        (("runs", "gc", *where), ""),
    ):
        code, out, err = tuneloop(*verb)
        assert (code, said in out) == (0, True), (verb, out, err)
    code, _, err = tuneloop("report", run_id, *where)
    assert (code, "has no eval stage" in err) == (12, True), err


def test_the_work_can_be_shared_and_gives_the_same_bytes(scoring: Scoring, tmp_path: Path) -> None:
    plan = scoring.plan()
    whole, shared = tmp_path / "whole.json", tmp_path / "shared.json"
    whole.write_bytes(plan.stages[0].model_dump_json(by_alias=True).encode())
    assert run_stage("score", str(whole)) == 0
    expected = rows_of(scoring, plan.run_id)
    assert [row["score"] for row in expected] == [1, 1, 0, 1, 0, 1, 1, None]
    assert [row["state"] for row in expected][4:] == [
        *("wrong", "correct", "correct", "no_expected_answer"),
    ]
    stage = plan.stages[0].model_copy(update={"run_id": "sums-shared", "fingerprint": "f" * 64})
    shared.write_bytes(stage.model_dump_json(by_alias=True).encode())
    for index in (2, 0, 1):
        assert records.find(scoring.artifacts, "sums-shared", "score") is None
        assert run_stage("score", str(shared), shard_index=index, shard_count=3) == 0
    assert rows_of(scoring, "sums-shared") == expected
    one, other = (
        records.find(scoring.artifacts, run_id, "score") for run_id in (plan.run_id, "sums-shared")
    )
    assert one is not None
    assert other is not None
    assert (one.counts, one.results) == (other.counts, other.results)


def test_contents_and_not_places_make_the_run(scoring: Scoring, tmp_path: Path) -> None:
    first = scoring.plan().run_id
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(scoring.set_path.read_bytes())
    assert scoring.plan(expected=str(moved)).run_id == first
    others = [
        scoring.plan(scorer="exact"),
        scoring.plan(scorer={"kind": "numeric", "tolerance": 0.5}),
        scoring.plan(criteria="mine"),
        scoring.plan(reading="lenient"),
        scoring.plan(limit=3),
        scoring.plan(expected=None),
    ]
    assert len({first, *(plan.run_id for plan in others)}) == 7
    moved.write_text(moved.read_text().replace('"2"', '"two"'))
    assert scoring.plan(expected=str(moved)).run_id != first


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"scorer": "nothing"}, SpecError, "score.scorer"),
        ({"scorer": "code"}, SpecError, "is not allowed"),
        ({"scorer": "nowhere.py"}, InputMissing, "change score.scorer"),
        ({"expected": "nowhere.jsonl"}, InputMissing, "change score.expected"),
        ({"reading": "fast"}, SpecError, "score.reading"),
        ({"criteria": "two words"}, SpecError, "score.criteria"),
    ],
)
def test_wrong_options_are_refused_when_planned(
    scoring: Scoring, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        scoring.plan(**options)


def test_it_renders_for_a_cluster(scoring: Scoring, tuneloop: Invoke, tmp_path: Path) -> None:
    execution = {
        "artifacts": "file:///mnt/shared",
        "datasets_url": scoring.artifacts,
        "store_url": "http://store:8000",
        "cluster": {"namespace": "team", "score": {"shard_count": 4}},
    }
    spec, out_folder = scoring.write(execution=execution, **{"import": {}}), tmp_path / "yaml"
    image = "registry.example/tuneloop@sha256:" + "a" * 64
    code, _, err = tuneloop("render", spec, "--image", image, "-o", out_folder)
    assert code == 0, err
    documents = [
        document
        for path in sorted(out_folder.rglob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]
    jobs = {one["metadata"]["name"]: one for one in documents if one and one["kind"] == "Job"}
    (score,) = (job for name, job in jobs.items() if "-score-" in name)
    assert score["spec"]["completions"] == 4
    assert "score" in str(score["spec"]["template"]["spec"]["containers"][0])
