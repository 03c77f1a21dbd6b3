"""The tracking server that receives the metrics of a run."""

from __future__ import annotations

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from tuneloop.specs.base import DnsLabel, Spec


class MetricsSinkSpec(Spec):
    """A tracking server that shows the metrics of runs beside those of other tools.

    It can neither fail a stage nor hold it up. It needs the extra `mlflow`.
    """

    kind: Literal["mlflow"]
    """Kind of the server: an MLflow tracking server, version 2 or later."""
    url: str
    """URL of the server, such as `http://mlflow.mlops:5000`, without a user name or password, which
    MLflow reads from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or as a token from
    MLFLOW_TRACKING_TOKEN."""
    experiment: str = Field(default="tuneloop", min_length=1, max_length=250)
    """Name of the experiment that holds the runs; it is created if it does not exist."""
    secret: DnsLabel | None = None
    """Secret in the cluster's namespace with the keys `username` and `password`, or `token`; null
    sends no credentials from a pod, unless `credentials_secret` holds MLflow's variables."""

    @model_validator(mode="after")
    def _has_a_public_url(self) -> Self:
        # The messages are without the URL, which may hold a secret.
        found = urlsplit(self.url)
        if found.scheme not in ("http", "https") or not found.hostname:
            raise ValueError("url: expected an http or https URL with a host")
        if found.username or found.password or found.query:
            raise ValueError(
                "url holds a credential (a user name, a password or a query), expected none,"
                " because the spec is stored with the run; use secret, or MLflow's variables"
            )
        return self
