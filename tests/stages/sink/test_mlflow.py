"""Metrics on MLflow's own server, through faults of every kind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun, stage_specs
from tests.stages.sink.server import (
    Tracking,
    broken,
    slow,
    stored_but_unanswered,
    tracking_server,
)
from tuneloop import jsonl
from tuneloop.artifacts.results import EvalCounts, EvalResults
from tuneloop.errors import DataError, Transient
from tuneloop.specs.integrations.metrics_sink import MetricsSinkSpec
from tuneloop.specs.stages import dump_stage_spec
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.lifecycle.contract import run_stage
from tuneloop.stages.sink import sink
from tuneloop.stages.sink.delivery import Delivery
from tuneloop.stages.sink.facts import Facts, build_facts
from tuneloop.stages.sink.mlflow_run import SOURCE_ID, MlflowRun
from tuneloop.stages.sink.points import Point, points_of_row

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    with tracking_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture
def server(started: Tracking) -> Iterator[Tracking]:
    yield started
    started.fault = None
    started.requests.clear()


@pytest.fixture
def spec(server: Tracking, request: pytest.FixtureRequest) -> MetricsSinkSpec:
    return MetricsSinkSpec(
        kind="mlflow", url=server.url, experiment=f"träining 🟡 {request.node.name}"
    )


def facts(run_id: str = "demo-1a2b3c4d", **parameters: str) -> Facts:
    return Facts(run_id, run_id, {"train.steps": "5", **parameters}, {"tuneloop.run_id": run_id})


def row(step: int, loss: float | None = None) -> list[Point]:
    value = 4.0 / step if loss is None else loss
    line = {"step": step, "loss": value, "learning_rate": 0.1, "mfu": None}
    return list(points_of_row(line, 1_700_000_000_000 + step))


def runs_of(spec: MetricsSinkSpec) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=spec.url)
    experiment = client.get_experiment_by_name(spec.experiment)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def steps_of(spec: MetricsSinkSpec, curve: str = "train/loss") -> list[int]:
    """Return the steps of every stored value, so a value that is stored twice shows."""
    from mlflow import MlflowClient

    (run,) = runs_of(spec)
    history = MlflowClient(tracking_uri=spec.url).get_metric_history(run.info.run_id, curve)
    return sorted(metric.step for metric in history)


def delivery_to(spec: MetricsSinkSpec, found: Facts | None = None) -> Delivery:
    told = found or facts()
    return Delivery(lambda: MlflowRun(spec, told), interval_seconds=0.02, max_pause_seconds=0.05)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_has_curves_parameters_tags_and_an_end(spec: MetricsSinkSpec) -> None:
    delivery = delivery_to(spec, build_facts(stage_specs()["train"], None, {"git_commit": "abc"}))
    for step in (1, 2, 3):
        delivery.add(row(step))
    delivery.add([Point("validation/loss", 3, 0.5, 1_700_000_000_000)])
    assert delivery.finish("FINISHED", seconds=60)
    (run,) = runs_of(spec)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == stage_specs()["train"].run_id
    assert run.data.metrics["train/loss"] == pytest.approx(4 / 3)
    assert run.data.metrics["validation/loss"] == 0.5
    assert "train/mfu" not in run.data.metrics
    assert run.data.params["dataset"] == "demo-v1"
    assert run.data.tags["mlflow.source.git.commit"] == "abc"
    assert run.data.tags["tuneloop.stage"] == "train"
    assert "/runs/" in run.data.tags["tuneloop.page"]
    assert steps_of(spec) == [1, 2, 3]


def test_a_resumed_attempt_sends_no_step_again(spec: MetricsSinkSpec) -> None:
    """The first attempt was killed after step 5, and the next starts from step 3."""
    killed = delivery_to(spec)
    killed.add(point for step in range(1, 6) for point in row(step))
    assert killed.finish("RUNNING", seconds=60)
    resumed = delivery_to(spec)
    resumed.add(point._replace(at_ms=1) for step in range(4, 8) for point in row(step))
    everything = [point for step in range(1, 9) for point in row(step)]
    assert resumed.finish("FINISHED", lambda: everything, seconds=60)
    assert steps_of(spec) == steps_of(spec, "train/learning_rate") == list(range(1, 9))


@pytest.mark.parametrize("fault", [broken, stored_but_unanswered])
def test_what_a_broken_server_missed_is_there_once_when_it_is_back(
    fault: Any, server: Tracking, spec: MetricsSinkSpec, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = delivery_to(spec)
    delivery.add(row(1))
    wait_for(lambda: bool(runs_of(spec)) and steps_of(spec) == [1])
    server.fault, count = fault, len(server.requests)
    delivery.add(row(2))
    wait_for(lambda: len(server.requests) > count + 3)
    delivery.add(row(3))
    server.fault = None
    assert delivery.finish("FINISHED", seconds=60)
    assert steps_of(spec) == [1, 2, 3]
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "the stage goes on" in warning.getMessage()
    assert len(warning.getMessage()) < 500


def test_a_server_that_is_down_from_start_to_end_costs_no_time(
    spec: MetricsSinkSpec, server: Tracking, caplog: pytest.LogCaptureFixture
) -> None:
    server.fault = slow
    started = time.monotonic()
    delivery = delivery_to(spec)
    for step in range(1, 100):
        delivery.add(row(step))
    assert time.monotonic() - started < 0.5
    assert not delivery.finish("FINISHED", seconds=0.2)
    assert time.monotonic() - started < 1.5


def test_many_steps_are_sent_in_parts(spec: MetricsSinkSpec, server: Tracking) -> None:
    delivery = delivery_to(spec)
    rows = [point for step in range(1, 601) for point in row(step)]
    assert delivery.finish("FINISHED", lambda: rows, seconds=60)
    assert steps_of(spec) == list(range(1, 601))


def test_parameters_of_any_number_and_length_are_kept_and_never_change(
    spec: MetricsSinkSpec,
) -> None:
    many = {f"train.option_{number}": "ü🟡" * 240 for number in range(110)}
    assert delivery_to(spec, facts(**many)).finish("RUNNING", seconds=60)
    assert delivery_to(spec, facts(**many, **{"train.new": "x"})).finish("RUNNING", seconds=60)
    assert delivery_to(spec, facts(**{"train.steps": "9"})).finish("RUNNING", seconds=60)
    (run,) = runs_of(spec)
    assert len(run.data.params) == 112
    assert run.data.params["train.steps"] == "5"
    assert run.data.params["train.option_3"] == "ü🟡" * 240


def test_two_attempts_that_start_together_write_to_one_run(spec: MetricsSinkSpec) -> None:
    both = [delivery_to(spec) for _ in range(2)]
    for delivery in both:
        assert delivery.finish("RUNNING", seconds=60)
    assert len(runs_of(spec)) == 1
    assert runs_of(spec)[0].data.tags[SOURCE_ID] == "demo-1a2b3c4d"


def test_credentials_come_from_mlflows_variables(
    spec: MetricsSinkSpec, server: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok3n")
    server.headers.clear()
    assert delivery_to(spec).finish("RUNNING", seconds=60)
    sent = [each["HTTP_AUTHORIZATION"] for each in server.headers if "HTTP_AUTHORIZATION" in each]
    # The thread of an earlier test may still end its last request, without a token.
    assert len(sent) > 4
    assert set(sent) == {"Bearer tok3n"}


METRICS = [{"step": step, "loss": 4.0 / step, "step_seconds": 0.5} for step in (1, 2, 3, 4)]


@pytest.fixture
def stage_url(tiny_run: TinyRun, spec: MetricsSinkSpec) -> Callable[[str], str]:
    """Write the spec of a stage of a run with the sink; returns the URL by the stage's name."""
    plan = tiny_run.change(execution__metrics_sink=spec.model_dump()).plan()

    def write(name: str) -> str:
        (stage,) = (each for each in plan.stages if each.stage == name)
        path = tiny_run.folder / f"{name}.json"
        path.write_bytes(dump_stage_spec(stage))
        return str(path)

    return write


def train(first: int, last: int, error: Exception | None = None) -> Callable[[Any, Stage], None]:
    """Return the work of an attempt at training that makes these steps."""

    def run(spec: Any, stage: Stage) -> None:
        for line in METRICS[first - 1 : last]:
            stage.on_metrics(line)
        if error is not None:
            raise error
        lines = b"".join(jsonl.dump_line(line) for line in METRICS)
        stage.write_output("metrics.jsonl", lines, has_timings=True)

    return run


def evaluate(spec: Any, stage: Stage) -> None:
    numbers = dict.fromkeys(EvalCounts.model_fields, 1)
    results = EvalResults(accuracy_base=0.25, accuracy_tuned=0.5, by_category={}, verdict="x")
    stage.set_results(EvalCounts(**numbers), results)


def test_an_attempt_that_is_stopped_and_its_next_one_make_one_curve(
    spec: MetricsSinkSpec, stage_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "STOP_SECONDS", 60)
    monkeypatch.setattr(sink, "FINISH_SECONDS", 60)
    stopped = train(1, 3, Transient("stopped by a signal"))
    assert run_stage("train", stage_url("train"), stopped) == 75
    assert [run.info.status for run in runs_of(spec)] == ["RUNNING"]
    assert run_stage("train", stage_url("train"), train(2, 4)) == 0
    assert [run.info.status for run in runs_of(spec)] == ["FINISHED"]
    assert steps_of(spec) == [1, 2, 3, 4]


def test_a_stage_that_fails_fails_its_run(
    spec: MetricsSinkSpec, stage_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "STOP_SECONDS", 60)
    assert run_stage("train", stage_url("train"), train(1, 2, DataError("the loss is nan"))) == 65
    assert [run.info.status for run in runs_of(spec)] == ["FAILED"]
    assert steps_of(spec) == [1, 2]


def test_the_eval_stage_sends_what_a_dead_server_missed_of_training(
    server: Tracking,
    spec: MetricsSinkSpec,
    stage_url: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_run: TinyRun,
) -> None:
    monkeypatch.setattr(sink, "FINISH_SECONDS", 0.5)
    server.fault = broken
    assert run_stage("train", stage_url("train"), train(1, 4)) == 0
    (log,) = Path(tiny_run.artifacts).glob("training_runs/*/train/log.txt")
    assert log.read_text().count("WARNING execution.metrics_sink") == 2
    server.fault = None
    monkeypatch.setattr(sink, "FINISH_SECONDS", 60)
    assert run_stage("eval", stage_url("eval"), evaluate) == 0
    assert steps_of(spec) == [1, 2, 3, 4]
    (run,) = runs_of(spec)
    assert run.data.metrics["eval/accuracy_tuned"] == 0.5
