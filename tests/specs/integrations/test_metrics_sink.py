"""The metrics sink in a run spec: what is refused, and that it is no part of a run's identity."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.builders import TinyRun
from tuneloop.specs.run import ExecutionSpec
from tuneloop.validation import first_error

SINK = {"kind": "mlflow", "url": "http://mlflow.mlops:5000"}


def problem(**changes: Any) -> str:
    value = {"metrics_sink": {**SINK, **changes}}
    with pytest.raises(ValidationError) as caught:
        ExecutionSpec.model_validate(value)
    return first_error(caught.value, value)


@pytest.mark.parametrize(
    "url",
    ["https://me:s3cret@h/", "https://s3cret@h/", "https://h/?token=s3cret", "sqlite:///s3cret"],
)
def test_a_credential_is_refused_without_repeating_it(url: str) -> None:
    assert "metrics_sink: url" in problem(url=url)
    assert "s3cret" not in problem(url=url)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"url": "mlflow:5000"}, "url: expected an http or https URL with a host"),
        ({"url": "https:///x"}, "url: expected an http or https URL with a host"),
        ({"kind": "wandb"}, "metrics_sink.kind is 'wandb', expected 'mlflow'"),
        ({"experiment": ""}, "metrics_sink.experiment"),
        ({"secret": "Not_A_Name"}, "metrics_sink.secret"),
        ({"token": "x"}, "metrics_sink.token"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], expected: str) -> None:
    assert expected in problem(**changes)


def test_the_sink_changes_neither_fingerprints_nor_the_run_id(tiny_run: TinyRun) -> None:
    before = tiny_run.plan()
    after = tiny_run.change(execution__metrics_sink=SINK).plan()
    assert after.spec.execution.metrics_sink is not None
    assert after.run_id == before.run_id
    assert [s.fingerprint for s in after.stages] == [s.fingerprint for s in before.stages]
