from __future__ import annotations

from typing import Any

import pytest

from tests.builders import Invoke, TinyRun
from tuneloop.k8s.checks.execution import check_execution
from tuneloop.specs.run import ExecutionSpec

STAGES = ("export", "train", "eval", "import")
IMAGE = "registry.example/tuneloop@sha256:" + "1" * 64


@pytest.mark.parametrize(
    ("artifacts", "store", "places"),
    [
        ("gs://b/a", "http://store.n:8000", []),
        ("/home/me", "http://store.n:8000", ["error execution.artifacts"]),
        ("läufe 🧪", "http://store.n:8000", ["error execution.artifacts"]),
        ("file:///home/me", "http://store.n:8000", ["error execution.artifacts"]),
        ("s3://b", "http://127.0.0.1:8000", ["warning execution.store_url"]),
        ("s3://b", "http://[::1]:8000", ["warning execution.store_url"]),
    ],
)
def test_places_that_mean_another_thing_in_a_pod(
    artifacts: str, store: str, places: list[str]
) -> None:
    found = check_execution(ExecutionSpec(artifacts=artifacts, store_url=store), STAGES)
    assert [f"{finding.severity} {finding.place}" for finding in found] == places


def test_a_folder_that_all_pods_mount_is_stated(tuneloop: Invoke, tiny_run: TinyRun) -> None:
    run = tiny_run.change(execution__cluster={"namespace": "n", "image": IMAGE})
    code, _, err = tuneloop("check", run.spec_path)
    assert code == 3
    assert f"error: execution.artifacts: {run.artifacts} is a folder of each pod" in err
    run.change(execution__cluster__shared_artifacts=True)
    code, _, err = tuneloop("check", run.spec_path)
    assert code == 0, err


@pytest.mark.parametrize(
    ("cluster", "minutes"),
    [
        ({"queue": "q"}, None),
        ({"timeouts": {"image_pull_seconds": 900}}, None),
        ({"queue": "q", "timeouts": {"provisioning_seconds": 1200}}, None),
        ({"queue": "q", "timeouts": {"provisioning_seconds": 1201}}, "30.0167"),
        ({"train": {"queue": "q"}, "timeouts": {"image_pull_seconds": 1200}}, "80"),
    ],
)
def test_stated_waits_are_compared_with_kueues_default(
    cluster: dict[str, Any], minutes: str | None
) -> None:
    place = {"namespace": "n", **cluster}
    value = {"artifacts": "s3://b", "store_url": "http://s", "cluster": place}
    found = [str(each) for each in check_execution(ExecutionSpec.model_validate(value), STAGES)]
    assert found == [
        f"execution.cluster.timeouts: provisioning_seconds and image_pull_seconds allow {minutes}"
        " minutes until pods are ready, but Kueue by default evicts them after 30; lower them, or"
        " raise waitForPodsReady.timeout in Kueue's configuration"
    ] * (minutes is not None)


def test_a_webhook_that_the_submitter_cannot_call_is_warned_of() -> None:
    hooks = [
        {"url": "http://h/"},
        {"url_from": {"env": "A_URL"}},
        {"url_from": {"env": "B_URL", "secret": "hook"}},
    ]
    places = {"artifacts": "gs://bucket/a", "store_url": "http://store", "notifications": hooks}
    (found,) = check_execution(ExecutionSpec.model_validate(places), STAGES)
    assert (found.place, found.severity) == ("execution.notifications.1.url_from", "warning")


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("http://127.0.0.1:5000", ["execution.metrics_sink.url"]),
        ("http://localhost", ["execution.metrics_sink.url"]),
        ("http://mlflow.mlops:5000", []),
    ],
)
def test_a_metrics_sink_on_the_laptop_is_warned_of(url: str, places: list[str]) -> None:
    sink = {"kind": "mlflow", "url": url}
    spec = {"artifacts": "gs://bucket/a", "store_url": "http://store", "metrics_sink": sink}
    found = check_execution(ExecutionSpec.model_validate(spec), STAGES)
    assert [(each.place, each.severity) for each in found] == [(p, "warning") for p in places]
