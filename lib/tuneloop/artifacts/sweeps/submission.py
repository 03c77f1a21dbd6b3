"""What the in-cluster submitter of a sweep gets, and what is stored of it with the sweep.

The members' submissions are almost equal. They are compressed together with xz, which finds
repetitions at any distance, so that a hundred members fit into one ConfigMap.
"""

from __future__ import annotations

import lzma
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.submission import Object, Submission
from tuneloop.artifacts.sweeps.store import SweepManifest, save_sweep
from tuneloop.errors import DataError, SpecError
from tuneloop.storage import files, paths
from tuneloop.storage.packed import unpack
from tuneloop.validation import first_error

MOST_BYTES = 1_000_000
"""Maximum compressed size; a ConfigMap can hold 1 MiB."""


class SubmittedSweep(BaseModel):
    """submission.json of a sweep: the objects of its submitter on a cluster."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal["1"] = "1"
    sweep_id: str
    artifacts: str
    namespace: str
    submitter: list[dict[str, Any]]
    """ServiceAccount, Role and RoleBinding, unless they exist already; then the Job."""

    @property
    def submitter_job(self) -> Object:
        """The Job of the in-cluster submitter."""
        return self.submitter[-1]


class SweepSubmission(BaseModel):
    """A sweep with the rendered objects of all members, as the submitter's ConfigMap holds it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    artifacts: str
    sweep: SubmittedSweep
    manifest: SweepManifest
    members: list[Submission]

    def dump(self) -> bytes:
        """Return the compressed content of the ConfigMap.

        Raises:
            SpecError: it is too large for a ConfigMap.
        """
        # The manifest's settings have a key with an alias. Preset 1 has a window of 1 MiB.
        data = lzma.compress(self.model_dump_json(by_alias=True).encode(), preset=1)
        if len(data) > MOST_BYTES:
            raise SpecError(
                f"sweep {self.sweep.sweep_id}: its {len(self.members)} members take {len(data):,}"
                f" bytes, expected at most {MOST_BYTES:,} in the submitter's ConfigMap; split the"
                " sweep, or submit it without --detach and keep `tuneloop wait` running"
            )
        return data

    def publish(self, job_uid: str) -> None:
        """Write the files of the sweep and of its members, once for each Job of a submitter.

        A new Job takes back an earlier cancellation; a restart of its pod must not.

        Args:
            job_uid: uid of the submitter's Job.
        """
        prefix = layout.sweep_prefix(self.artifacts, self.sweep.sweep_id)
        mark = paths.join(prefix, "submitters", job_uid)
        if files.exists(mark):
            return
        for member in self.members:
            member.publish()
        save_submitted_sweep(self.sweep)
        save_sweep(self.manifest, self.artifacts)
        files.write(mark, b"")


def submitted_sweep_url(artifacts: str, sweep_id: str) -> str:
    """Return the URL of the objects of a sweep's submitter."""
    return paths.join(layout.sweep_prefix(artifacts, sweep_id), "submission.json")


def save_submitted_sweep(sweep: SubmittedSweep) -> None:
    """Write the objects of a sweep's submitter, replacing earlier ones."""
    data = sweep.model_dump_json(indent=1).encode() + b"\n"
    files.write(submitted_sweep_url(sweep.artifacts, sweep.sweep_id), data)


def find_submitted_sweep(artifacts: str, sweep_id: str) -> SubmittedSweep | None:
    """Read the objects of a sweep's submitter; None if the sweep was never submitted detached.

    Raises:
        DataError: the file is broken.
    """
    url = submitted_sweep_url(artifacts, sweep_id)
    try:
        return SubmittedSweep.model_validate_json(files.read(url))
    except FileNotFoundError:
        return None
    except ValidationError as e:
        raise DataError(f"{url}: {first_error(e)}; submit the sweep again") from e


def read_sweep_submission(url: str) -> SweepSubmission:
    """Read the mounted ConfigMap of a submitter.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is not a submission of a sweep.
    """
    data = files.read(url)
    try:
        return SweepSubmission.model_validate_json(unpack(data))
    except ValueError as e:  # ValidationError is one
        problem = first_error(e) if isinstance(e, ValidationError) else str(e)
        raise DataError(f"{url}: not a sweep: {problem}; submit the sweep again") from e
