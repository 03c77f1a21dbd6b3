"""submission.json: the rendered objects of a run, stored with its records.

`wait` and `status` read it, so they need only the run id and the artifacts URL. The in-cluster
submitter reads the same file from its ConfigMap. Nothing about a run is kept on the machine that
submitted it.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop import jsonl
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs import run_manifest
from tuneloop.artifacts.runs.run_manifest import RunManifest
from tuneloop.errors import DataError, UsageError
from tuneloop.specs.cluster import TimeoutSpec
from tuneloop.storage import files, paths
from tuneloop.storage.packed import unpack
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
    """ServiceAccount, Role and RoleBinding of the in-cluster submitter, unless they exist already;
    then its Job. Its ConfigMap is missing, because it contains this submission."""
    run_manifest: RunManifest | None = None
    """Manifest of the run, which the in-cluster submitter writes if nobody has; null in submissions
    of older versions."""

    @property
    def submitter_job(self) -> Object:
        """The Job of the in-cluster submitter."""
        return self.submitter[-1]

    @property
    def digest(self) -> str:
        """sha256 of everything that is created on a cluster from this submission, and of the spec.

        The spec names the webhooks that are told of the run.
        """
        value = self.model_dump(
            mode="json", include={"run_id", "namespace", "image", "stages", "submitter"}
        )
        if self.run_manifest is not None:
            value["spec"] = self.run_manifest.spec
        return hashlib.sha256(jsonl.dump_line(value)).hexdigest()

    def to_json(self) -> str:
        """Return the content of submission.json."""
        return self.model_dump_json(indent=1) + "\n"

    def publish(self) -> None:
        """Write the run manifest unless there is one, then the submission.

        The in-cluster submitter calls this: after `kubectl apply` of a rendered folder, nobody else
        has written them.
        """
        if self.run_manifest is not None:
            run_manifest.write_run_manifest(self.run_manifest, self.artifacts)
        save_submission(self)


def submission_url(artifacts: str, run_id: str) -> str:
    """Return the URL of the submission of a run."""
    return paths.join(layout.run_prefix(artifacts, run_id), "submission.json")


def save_submission(submission: Submission) -> None:
    """Write a submission, replacing an earlier one of the same run."""
    url = submission_url(submission.artifacts, submission.run_id)
    files.write(url, submission.to_json().encode())


def load_submission(artifacts: str, run_id: str) -> Submission:
    """Read the submission of a run.

    Stages may write the file. Only a cluster can tell whether it is what was submitted; see
    `KubernetesBackend`.

    Raises:
        UsageError: no run of that id was submitted with these artifacts.
        DataError: the file is not a submission, or it is that of another run.
    """
    url = submission_url(artifacts, run_id)
    try:
        found = read_submission(url)
    except FileNotFoundError as e:
        raise UsageError(
            f"{url}: missing, expected a run submitted with `tuneloop submit`; check the run id"
            " and --artifacts"
        ) from e
    if found.run_id != run_id:
        raise DataError(
            f"{url}: is the submission of run {found.run_id[:200]}, expected that of {run_id};"
            " submit the run again"
        )
    return found


def read_submission(url: str) -> Submission:
    """Read a submission from any place, such as a mounted ConfigMap.

    Args:
        url: URL of the file, which is compressed with gzip if the URL ends in .gz.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is not a submission.
    """
    data = files.read(url)
    try:
        if url.endswith(".gz"):
            data = unpack(data)
        return Submission.model_validate_json(data)
    except ValidationError as e:
        raise DataError(f"{url}: not a submission: {first_error(e)}; submit the run again") from e
    except ValueError as e:
        raise DataError(
            f"{url}: broken gzip ({e}), expected a submission; submit the run again"
        ) from e


def name_of(workload: Object) -> str:
    """Return the name of an object."""
    name: str = workload["metadata"]["name"]
    return name
