"""One run on an MLflow tracking server; a value that the server already has is not sent again."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Literal, TypeVar

from tuneloop.errors import UsageError
from tuneloop.specs.integrations.metrics_sink import MetricsSinkSpec
from tuneloop.stages.sink.facts import Facts
from tuneloop.stages.sink.points import Point

Item = TypeVar("Item")
Status = Literal["RUNNING", "FINISHED", "FAILED"]

SOURCE_ID = "tuneloop.source_id"
"""Tag by which every stage and attempt finds the run."""
METRICS_PER_REQUEST = 1000
"""MLflow's limit."""
PARAMETERS_PER_REQUEST = 100
"""MLflow's limit."""
SETTINGS = {
    # The sender retries itself, and keeps what it could not send.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow reports its usage to its makers unless it is told not to.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Variables of MLflow that a stage sets unless the user has."""


def check_installed(spec: MetricsSinkSpec | None) -> None:
    """Check that the client's package is installed, without importing it.

    Raises:
        UsageError: it is missing.
    """
    if spec is not None and importlib.util.find_spec("mlflow") is None:
        raise UsageError(
            "execution.metrics_sink: Python module mlflow is not installed, expected the client of"
            " the server; install the mlflow extra (the lock requirements/mlflow.txt with pip, or"
            " an image built with METRICS_SINK=mlflow), or remove metrics_sink"
        )


class MlflowRun:
    """The run of one tuneloop run on the server, which several stages and attempts write to."""

    def __init__(self, spec: MetricsSinkSpec, facts: Facts) -> None:
        """Find or create experiment and run, and describe the run.

        Any exception of MLflow's client can occur here and in the methods.

        Args:
            spec: the server.
            facts: description of the run.
        """
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient, entities

        self._entities: Any = entities
        self._client: Any = MlflowClient(tracking_uri=spec.url)
        self._experiment_id = self._find_experiment(spec.experiment)
        self._id = self._find_run(facts)
        self.page = f"{spec.url.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{self._id}"
        """URL of the run for people."""
        run = self._client.get_run(self._id)
        self._has_values = set(run.data.metrics)
        self._sent: dict[str, set[int]] = {}
        self._describe(facts, set(run.data.params))

    def _find_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:  # another run has created it at the same moment
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _find_run(self, facts: Facts) -> str:
        if (oldest := self._oldest(facts.source_id)) is not None:
            return oldest
        tags = {SOURCE_ID: facts.source_id}
        made = self._client.create_run(self._experiment_id, tags=tags, run_name=facts.run_id)
        own = str(made.info.run_id)
        # Another attempt may have created one at the same moment; all take the oldest.
        oldest = self._oldest(facts.source_id) or own
        if oldest != own:
            self._client.delete_run(own)
        return oldest

    def _oldest(self, source_id: str) -> str | None:
        found = self._client.search_runs(
            [self._experiment_id],
            filter_string=f"tags.`{SOURCE_ID}` = '{source_id}'",
            max_results=1,
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        )
        return str(found[0].info.run_id) if found else None

    def _describe(self, facts: Facts, known: set[str]) -> None:
        # A parameter cannot change; the first attempt's stay, and equal ones are not sent again.
        new = [(key, value) for key, value in facts.parameters.items() if key not in known]
        for part in _parts(new, PARAMETERS_PER_REQUEST):
            parameters = [self._entities.Param(key, value) for key, value in part]
            self._client.log_batch(self._id, params=parameters, synchronous=True)
        tags = [self._entities.RunTag(key, value) for key, value in facts.tags.items()]
        self._client.log_batch(self._id, tags=tags, synchronous=True)

    def send(self, points: Iterable[Point]) -> None:
        """Send the values that the server does not have.

        A request that fails may have stored a part, so make a new object after an error: it asks
        the server what is there.
        """
        for part in _parts(self._new(points), METRICS_PER_REQUEST):
            metrics = [
                self._entities.Metric(point.curve, point.value, point.at_ms, point.step)
                for point in part
            ]
            self._client.log_batch(self._id, metrics=metrics, synchronous=True)

    def _new(self, points: Iterable[Point]) -> Iterator[Point]:
        for point in points:
            steps = self._steps_sent(point.curve)
            if point.step not in steps:
                steps.add(point.step)
                yield point

    def _steps_sent(self, curve: str) -> set[int]:
        if curve not in self._sent:
            has_values = curve in self._has_values
            history = self._client.get_metric_history(self._id, curve) if has_values else []
            self._sent[curve] = {metric.step for metric in history}
        return self._sent[curve]

    def set_status(self, status: Status) -> None:
        """Set the state of the run; FINISHED and FAILED also set its end."""
        if status == "RUNNING":
            self._client.update_run(self._id, status=status)
        else:
            self._client.set_terminated(self._id, status)


def _parts(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of at most this size."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
