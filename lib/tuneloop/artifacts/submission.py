"""submission.json: the rendered objects of a run, stored with its records.

`wait`, `status` and the in-cluster submitter read it, so they need only the run id and the
artifacts URL. Nothing about a run is kept on the machine that submitted it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.artifacts import layout
from tuneloop.errors import DataError, UsageError
from tuneloop.specs.cluster import TimeoutSpec
from tuneloop.storage import files, paths
from tuneloop.validation import first_error

Object = dict[str, Any]
"""A Kubernetes object."""


class SubmittedStage(BaseModel):
    """One stage as a cluster creates it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    fingerprint: str
    documents: list[dict[str, Any]]
    """ConfigMap, then Job or JobSet."""

    @property
    def config_map(self) -> Object:
        """The ConfigMap with the stage spec."""
        return self.documents[0]

    @property
    def workload(self) -> Object:
        """The Job or JobSet."""
        return self.documents[-1]


class Submission(BaseModel):
    """A run as a cluster creates it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1"] = "1"
    run_id: str
    artifacts: str
    namespace: str
    image: str
    timeouts: TimeoutSpec
    stages: list[SubmittedStage]
    """In the order in which they run."""
    submitter: list[dict[str, Any]]
    """ServiceAccount, Role, RoleBinding and Job of the in-cluster submitter."""

    @property
    def submitter_job(self) -> Object:
        """The Job that `submit --detach` creates."""
        return self.submitter[-1]


def submission_url(artifacts: str, run_id: str) -> str:
    """Return the URL of the submission of a run."""
    return paths.join(layout.run_prefix(artifacts, run_id), "submission.json")


def save_submission(submission: Submission) -> None:
    """Write a submission, replacing an earlier one of the same run."""
    data = submission.model_dump_json(indent=1).encode() + b"\n"
    files.write(submission_url(submission.artifacts, submission.run_id), data)


def load_submission(artifacts: str, run_id: str) -> Submission:
    """Read the submission of a run.

    Raises:
        UsageError: no run of that id was submitted with these artifacts.
        DataError: the file is not a submission.
    """
    url = submission_url(artifacts, run_id)
    try:
        return Submission.model_validate_json(files.read(url))
    except FileNotFoundError as e:
        raise UsageError(
            f"{url}: missing, expected a run submitted with `tuneloop submit`; check the run id"
            " and --artifacts"
        ) from e
    except ValidationError as e:
        raise DataError(f"{url}: not a submission: {first_error(e)}; submit the run again") from e


def name_of(workload: Object) -> str:
    """Return the name of an object."""
    name: str = workload["metadata"]["name"]
    return name
