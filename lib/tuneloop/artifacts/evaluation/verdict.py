"""The verdict on a stage without a record, and verdict.json, the last verdict on a failed stage.

`verdict.json` is stored in the stage's folder. It holds the verdict and the cluster objects that it
was read from, because a cluster deletes them after a while.
"""

from __future__ import annotations

import json
from dataclasses import field
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import sealed, unsealed
from tuneloop.validation import first_error

State = Literal[
    # It has succeeded, or still can.
    "Succeeded",
    "Queued",
    "Provisioning",
    "Pulling",
    "Running",
    "Restarting",
    # It cannot start.
    "Unschedulable",
    "Stockout",
    "QuotaExceeded",
    "ImageError",
    "ConfigError",
    # It has ended without a record.
    "SucceededNoOutput",
    "UserError",
    "DataError",
    "OutOfMemory",
    "DeviceRefused",
    "Evicted",
    "Preempted",
    "NodeLost",
    "AdmissionRejected",
    "Crashed",
    "Transient",
    "Stuck",
    "DeadlineExceeded",
    "Deleted",
    "Cancelled",
    "Unknown",
]


def _known_state(state: object) -> object:
    return state if not isinstance(state, str) or state in get_args(State) else "Unknown"


@dataclass(frozen=True)
class Verdict:
    """The state of a stage, its cause and its fix."""

    state: Annotated[State, BeforeValidator(_known_state)]
    """A state of a newer tuneloop is read as Unknown."""
    cause: str
    """One sentence; empty if there is nothing to report."""
    fix: str = ""
    """What to do; empty if waiting is enough, or if the cause names it."""
    evidence: tuple[str, ...] = ()
    """Lines as the cluster reported them."""
    exit_code: int | None = None
    """Exit code of the verb; None: the stage may still succeed."""
    about: str = ""
    """Kind and name of the object that shows the cause, such as `Job demo-train-1a2b3c4d-w-0`;
    empty if the verdict does not come from an object."""

    @property
    def is_final(self) -> bool:
        """Whether the state will not change any more."""
        return self.exit_code is not None

    def sentence(self, stage: str) -> str:
        """Return the verdict as one sentence; a cause that names its own fix is that sentence."""
        return f"stage {stage}: {self.state}: {self.cause}; {self.fix}" if self.fix else self.cause


@dataclass(frozen=True)
class ArchivedVerdict(Verdict):
    """The content of verdict.json: a verdict and the objects that it was read from."""

    at: str | None = None
    """Time on the cluster's clock, ISO 8601; null if the cluster was not asked."""
    workload: dict[str, Any] | None = None
    """The Job or JobSet; null if there was none."""
    pods: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


_ARCHIVED = TypeAdapter[ArchivedVerdict](Annotated[ArchivedVerdict, BeforeValidator(unsealed)])


def verdict_url(stage_prefix: str) -> str:
    """Return the URL of the last failed verdict on a stage."""
    return paths.join(stage_prefix, "verdict.json")


def write_verdict(verdict: ArchivedVerdict, stage_prefix: str) -> None:
    """Write verdict.json, replacing an earlier one."""
    value = _ARCHIVED.dump_python(verdict, mode="json")
    files.write(verdict_url(stage_prefix), json.dumps(sealed(value), indent=1).encode() + b"\n")


def read_verdict(stage_prefix: str) -> ArchivedVerdict | None:
    """Read the last failed verdict on a stage; None if there is none.

    Raises:
        DataError: the file is not a verdict.
    """
    url = verdict_url(stage_prefix)
    try:
        return _ARCHIVED.validate_json(files.read(url))
    except FileNotFoundError:
        return None
    except ValidationError as e:
        raise DataError(
            f"{url}: not a verdict ({first_error(e)}); `tuneloop explain` asks the cluster"
        ) from e
