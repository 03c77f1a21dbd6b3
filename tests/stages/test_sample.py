"""The sample stage: scores, traces and counts, for any number of processes and any batch size."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main
from tests.builders import publish_dataset
from tests.chat_model import write_chat_model
from tests.evaluation.backends.server import Handler, completion, serving
from tests.k8s.twin import Exit, Twin
from tests.sampling import Sampling, make_sampling
from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.eval_samples import STATES
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import SampleCounts, SampleResults
from tuneloop.evaluation.traces import NO_ANSWER, sample_id
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs.planning.prepare import prepare
from tuneloop.runs.planning.spec_file import load_any_spec
from tuneloop.runs.sampling.plan import SamplePlan
from tuneloop.runs.sequence import Sequence
from tuneloop.specs.stages import dump_stage_spec
from tuneloop.specs.target import Target
from tuneloop.traces.schema import build_trace, parse_trace

IMAGE = "registry.example/tuneloop@sha256:" + "1" * 64


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Sampling:
    made = make_sampling(tmp_path_factory.mktemp("sampling"))
    write_chat_model(Path(made.artifacts, "models", "tiny"), 1)
    return made


def sample(made: Sampling, folder: Path, count: int = 1, **changes: Any) -> Record:
    """Run the stage in a copy of the artifacts, with several processes one after another."""
    shutil.copytree(made.artifacts, folder / "artifacts")
    copied = Sampling(folder, Path(shutil.copy(made.spec_path, folder / "sample.yaml")))
    plan = copied.change(execution__artifacts=copied.artifacts, **changes).plan()
    (folder / "spec.json").write_bytes(dump_stage_spec(plan.stages[0]))
    url = str(folder / "spec.json")
    for index in [*range(1, count), 0]:
        assert main(["sample", "--spec", url, "--index", str(index), "--count", str(count)]) == 0
    return record_of(plan)


def record_of(plan: SamplePlan) -> Record:
    found = records.find(plan.artifacts, plan.run_id, "sample")
    assert found is not None
    return found


def rows_of(record: Record, folder: Path) -> list[dict[str, Any]]:
    data = records.read_output(record.output("sampled.jsonl"), str(folder / "artifacts"))
    return [json.loads(line) for line in data.splitlines()]


def texts(rows: list[dict[str, Any]]) -> list[Any]:
    """Return what the model wrote, without the fingerprint of the stage."""
    own = ("sampled", "sample_id")
    return [{**row, "meta": {k: v for k, v in row["meta"].items() if k not in own}} for row in rows]


def test_every_sample_becomes_a_trace_with_its_reward(prepared: Sampling, tmp_path: Path) -> None:
    record = sample(prepared, tmp_path, sample__round=2)
    rows = rows_of(record, tmp_path)
    counts = record.counts_as(SampleCounts)
    found = Counter(row["meta"]["state"] for row in rows)
    assert (counts.prompts, counts.samples) == (6, 24)
    assert {state: getattr(counts, state) for state in STATES} == {s: found[s] for s in STATES}
    assert counts.samples == sum(found.values())
    assert found["correct"] and found["wrong"] and found["error"]
    for number, row in enumerate(rows):
        trace = parse_trace(row, "sampled.jsonl", number + 1)
        meta = row["meta"]
        assert (meta["source"], meta["round"], meta["sample"]) == ("sample", 2, number % 4)
        # A scorer that fails says nothing about the answer, so there is no reward.
        assert (trace.reward is None) == (meta["state"] == "error")
        assert (trace.reward == 1.0) == (meta["state"] == "correct")
        assert meta["sample_id"] == sample_id(record.fingerprint, meta["prompt_id"], number % 4)
    assert 0.5 in {row.get("reward") for row in rows}
    assert len({row["meta"]["sample_id"] for row in rows}) == 24
    results = record.results_as(SampleResults)
    assert results.mean_reward == pytest.approx(sum(row.get("reward", 0) for row in rows) / 24)
    assert results.pass_at[1] == pytest.approx(found["correct"] / 24)
    assert list(results.pass_at) == [1, 2, 4]
    report = records.read_output(record.output("sampling_report.md"), str(tmp_path / "artifacts"))
    assert f"| correct | {found['correct']} |" in report.decode()


def test_the_same_bytes_come_from_any_number_of_processes(
    prepared: Sampling, tmp_path: Path
) -> None:
    whole = sample(prepared, tmp_path / "one")
    # The last of them have no batch to generate.
    shared = sample(prepared, tmp_path / "many", count=5)
    assert shared.content() == whole.content()
    assert (shared.counts, shared.results) == (whole.counts, whole.results)
    other = sample(prepared, tmp_path / "other", sample__batch_size=3)
    assert other.fingerprint != whole.fingerprint
    one, two = rows_of(whole, tmp_path / "one"), rows_of(other, tmp_path / "other")
    assert texts(one) == texts(two)
    assert len({json.dumps(row["steps"]) for row in one}) > 20, "completions differ"
    seeded = sample(prepared, tmp_path / "seeded", seed=6)
    assert texts(rows_of(seeded, tmp_path / "seeded")) != texts(one)


def test_pods_of_an_indexed_job_share_the_samples(prepared: Sampling, tmp_path: Path) -> None:
    """Each pod does its share in this process, with the spec and the arguments of its container."""
    shutil.copytree(prepared.artifacts, tmp_path / "artifacts")
    made = Sampling(tmp_path, Path(shutil.copy(prepared.spec_path, tmp_path / "sample.yaml")))
    made.change(
        execution__artifacts=made.artifacts,
        execution__cluster={"namespace": "n", "image": IMAGE, "sample": {"shard_count": 2}},
    )
    placed = prepare(KubernetesBackend, load_any_spec(str(made.spec_path)), Target())
    twin, seen = Twin(), list[str]()

    def work(pod: dict[str, Any]) -> Exit:
        url = tmp_path / "spec.json"
        url.write_bytes(dump_stage_spec(twin.stage_of(pod)))
        command = pod["spec"]["containers"][0]["command"]
        index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
        seen.append(index)
        assert command[3:5] == ["sample", "--spec"] and command[-2:] == ["--count", "2"]
        return Exit(main(["sample", "--spec", str(url), "--index", index, "--count", "2"]))

    twin.act = work
    backend = KubernetesBackend(placed.backend.submission, lambda: twin)
    results = Sequence(backend, clock=twin.clock, sleep=twin.sleep).run(
        retry_failed=True, stop_on_interrupt=True
    )
    assert [(result.name, result.state) for result in results] == [("sample", "done")]
    assert sorted(seen) == ["0", "1"]
    here = sample(prepared, tmp_path / "here")
    rows = rows_of(results[0].record, tmp_path)
    assert texts(rows) == texts(rows_of(here, tmp_path / "here"))


def test_a_server_draws_every_completion_with_a_seed_of_its_own(
    prepared: Sampling, tmp_path: Path
) -> None:
    def answer(handler: Handler, number: int) -> bool:
        handler.send(200, completion(f"Answer: {handler.server.bodies[number]['seed']}"))
        return True

    with serving(answer) as server:
        backend = {"kind": "openai", "url": server.url, "models": {"model": "tuned"}}
        record = sample(prepared, tmp_path, 2, sample__backend=backend)
        bodies = list(server.bodies)
    rows = rows_of(record, tmp_path)
    assert {each["model"] for each in bodies} == {"tuned"}
    assert len({each["seed"] for each in bodies}) == len(rows) == 24
    assert sorted(each["final_answer"] for each in rows) == sorted(
        str(each["seed"]) for each in bodies
    )
    answered_by = record.results_as(SampleResults).answered_by
    assert answered_by is not None and answered_by.startswith(f"tuned at {server.url}")
    assert {each["meta"]["answered_by"] for each in rows} == {answered_by}


def test_text_without_an_answer_is_kept_and_marked(prepared: Sampling, tmp_path: Path) -> None:
    record = sample(prepared, tmp_path, sample__scorer="exact_match", sample__completions=1)
    rows = rows_of(record, tmp_path)
    counts = record.counts_as(SampleCounts)
    assert counts.samples == counts.prompts == counts.no_answer + counts.truncated
    for number, row in enumerate(rows):
        assert parse_trace(row, "sampled.jsonl", number).final_answer == NO_ANSWER
        assert (row["reward"], [step["type"] for step in row["steps"]]) == (0.0, ["unparsed"])
        assert row["meta"]["hit_token_limit"] == (row["meta"]["state"] == "truncated")


def test_prompts_of_conversations_are_asked_with_all_that_is_before_them(
    prepared: Sampling, tmp_path: Path
) -> None:
    before = [{"role": "user", "content": "Upper: a"}, {"role": "assistant", "content": "A"}]
    tool = {"type": "function", "function": {"name": "upper"}}
    call = {"type": "tool_call", "name": "upper", "content": '{"of": "b"}'}
    traces = [
        build_trace("Upper: b", [], "B"),
        build_trace("Upper: b", [], "B", messages=before),
        build_trace("Upper: b", ["b -> B"], "B", messages=before, system="Be brief 🟡"),
        build_trace("Upper: b", [], "B", messages=before, system="Be brief 🟡"),
        build_trace("Upper: b", [], "B", tools=[tool], system="x"),
        build_trace("Upper: b", [call, {"type": "tool_result", "content": "B"}], "B", tools=[tool]),
    ]
    publish_dataset(prepared.artifacts, traces, dataset_name="chat")
    prompts = {"kind": "dataset", "dataset": "chat-v1"}
    record = sample(prepared, tmp_path, count=2, sample__prompts=prompts)
    counts = record.counts_as(SampleCounts)
    assert (counts.prompts, counts.prompts_repeated, counts.samples) == (3, 1, 12)
    assert (counts.prompts_conversation, counts.prompts_not_renderable) == (1, 1)
    rows = rows_of(record, tmp_path)
    for number, row in enumerate(rows):
        source = traces[number // 4]
        for name in ("prompt", "system", "messages", "tools"):
            assert row.get(name) == source.get(name)
        assert row["meta"].get("bare_answer", False) == (number < 8)
        parse_trace(row, "sampled.jsonl", number + 1)
    # The same text, asked in another conversation, is continued in another way.
    assert len({json.dumps(row["steps"]) for row in rows}) == 12
    report = records.read_output(record.output("sampling_report.md"), str(tmp_path / "artifacts"))
    assert "| That the model's chat template cannot write | 1 |" in report.decode()
