"""Status of a submitted run, from its records or from its backend. Only reads."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.evaluation.verdict import Verdict, read_verdict
from tuneloop.artifacts.progress import Progress
from tuneloop.runs.backend import Backend


@dataclass(frozen=True)
class StageStatus:
    """The status of one stage."""

    name: str
    state: str
    """`done`, `to run`, or the state of a verdict."""
    cause: str = ""
    fix: str = ""
    evidence: tuple[str, ...] = ()
    about: str = ""
    """Kind and name of the object that shows the cause."""
    step: str = ""
    """Step and number of steps, such as 12/50; empty before the first heartbeat."""
    rate_per_second: float | None = None
    """Steps per second in the last minute; None if it is not known."""
    seconds_left: float | None = None
    """Estimated time to the last step at that rate; None if it is not known."""
    loss: float | None = None
    """Training loss of that step."""


def run_status(backend: Backend) -> list[StageStatus]:
    """Return the status of every stage; the backend is asked only if a stage has no record."""
    return [_status(backend, stage) for stage in backend.fingerprints]


def _status(backend: Backend, stage: str) -> StageStatus:
    if records.find(backend.artifacts, backend.run_id, stage) is not None:
        return StageStatus(stage, "done")
    if not backend.exists(stage):
        prefix = layout.stage_prefix(backend.artifacts, backend.run_id, stage)
        last = read_verdict(prefix)  # left by the supervisor that stopped the stage
        return _judged(stage, last) if last else StageStatus(stage, "to run")
    verdict = backend.poll(stage)
    return _judged(stage, verdict, backend.progress(stage))


def _judged(stage: str, verdict: Verdict, progress: Progress | None = None) -> StageStatus:
    has_step = progress is not None and progress.step is not None
    step = f"{progress.step}/{progress.total}" if progress and has_step else ""
    return StageStatus(
        stage,
        verdict.state,
        verdict.cause,
        verdict.fix,
        verdict.evidence,
        verdict.about,
        step,
        rate_per_second=progress.rate_per_second if progress else None,
        seconds_left=progress.seconds_left if progress else None,
        loss=progress.loss if progress else None,
    )
