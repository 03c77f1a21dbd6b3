"""What was submitted: the rendered objects of a run beside its records, so that anyone can go on.

One rule: `wait`, `status` and the submitter in the cluster know a run by its id and the artifacts
URL alone; nothing about a run lives on the machine that submitted it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.artifacts import layout
from tuneloop.errors import DataError, UsageError
from tuneloop.k8s import names
from tuneloop.k8s.rendering.render import Object
from tuneloop.specs.cluster import GraceSpec
from tuneloop.storage import files, paths
from tuneloop.validation import first_error


class SubmittedStage(BaseModel):
    """One stage as it is created on a cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    fingerprint: str
    documents: list[dict[str, Any]]
    """ConfigMap, then Job or JobSet."""

    @property
    def config_map(self) -> Object:
        """Holds the stage spec."""
        return self.documents[0]

    @property
    def workload(self) -> Object:
        """The Job or JobSet."""
        return self.documents[-1]


class Submission(BaseModel):
    """A run as it is created on a cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1"] = "1"
    run_id: str
    artifacts: str
    namespace: str
    image: str
    graces: GraceSpec
    stages: list[SubmittedStage]
    """In the order in which they run."""
    submitter: list[dict[str, Any]]
    """ServiceAccount, Role, RoleBinding and Job that hold the sequence in the cluster."""

    @property
    def submitter_job(self) -> Object:
        """The Job that `submit --detach` creates."""
        return self.submitter[-1]


def submission_url(artifacts: str, run_id: str) -> str:
    """Where a run's submission lies."""
    return paths.join(layout.run_prefix(artifacts, run_id), "submission.json")


def save_submission(submission: Submission) -> None:
    """Write it before anything is created; submitted again, the newer placement stands."""
    data = submission.model_dump_json(indent=1).encode() + b"\n"
    files.write(submission_url(submission.artifacts, submission.run_id), data)


def load_submission(artifacts: str, run_id: str) -> Submission:
    """Read a run's submission.

    Raises:
        UsageError: no run of that id was submitted from these artifacts.
        DataError: it is not a submission.
    """
    url = submission_url(artifacts, run_id)
    try:
        return Submission.model_validate_json(files.read(url))
    except FileNotFoundError as e:
        raise UsageError(
            f"{url}: missing, expected what `tuneloop submit` wrote; check run id and --artifacts"
        ) from e
    except ValidationError as e:
        raise DataError(f"{url}: not a submission: {first_error(e)}; submit the run again") from e


def name_of(workload: Object) -> str:
    """Name of an object."""
    name: str = workload["metadata"]["name"]
    return name


def fingerprint_of(workload: Object) -> str:
    """The full fingerprint that an object was rendered for; empty if it is not ours."""
    found: str = workload["metadata"].get("annotations", {}).get(names.FINGERPRINT, "")
    return found
