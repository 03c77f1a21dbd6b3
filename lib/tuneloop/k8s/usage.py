"""Note when the pods of a stage hold their machines, and store it with the stage's records."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

from tuneloop.artifacts.runs.submission import Submission, SubmittedStage
from tuneloop.artifacts.usage.held import PodUse, StageHeld, read_held, write_held
from tuneloop.errors import TuneloopError
from tuneloop.k8s.api import Object
from tuneloop.k8s.diagnosis.observed import condition, mapping, metadata_of, status_of, text
from tuneloop.k8s.diagnosis.pods import main_container

CHIP_RESOURCES = ("google.com/tpu", "nvidia.com/gpu", "amd.com/gpu")


STORE_EVERY = timedelta(minutes=1)
"""Time between two writes while nothing starts or ends, so that a killed supervisor loses little.
"""


class UsageMeter:
    """The usage of one stage; continues what an earlier supervisor has stored."""

    def __init__(self, submission: Submission, stage: SubmittedStage, stage_prefix: str) -> None:
        """Store the arguments; nothing is read yet.

        Args:
            submission: the rendered run.
            stage: the stage.
            stage_prefix: URL that the stage writes below.
        """
        self._prefix = stage_prefix
        spec = submission.run_manifest.spec if submission.run_manifest else {}
        place = mapping(mapping(mapping(spec.get("execution")).get("cluster")).get(stage.name))
        self._held = StageHeld(
            accelerator=text(place.get("accelerator")) or "cpu",
            spot=place.get("spot") is True,
            chips_per_pod=_chips(stage.workload),
        )
        self._is_read = False
        self._uid = ""
        self._stored_at: datetime | None = None
        self._stored: StageHeld | None = None

    def look(
        self, workload: Object | None, pods: list[Object], now: datetime, *, is_last: bool = False
    ) -> None:
        """Take in the state of the cluster, and store it if that is due.

        Args:
            workload: the Job or JobSet; None if it is gone.
            pods: its pods.
            now: time on the server's clock.
            is_last: whether the pods may be gone before the next call.
        """
        if not self._is_read:
            self._is_read = True
            with contextlib.suppress(TuneloopError):  # a broken file is replaced
                self._stored = read_held(self._prefix)
            if self._stored is not None:
                earlier = {"workloads": self._stored.workloads, "pods": self._stored.pods}
                self._held = self._held.model_copy(update=earlier)
        self._uid = text(metadata_of(workload).get("uid")) or self._uid
        created = _time(metadata_of(workload).get("creationTimestamp"))
        found = {text(metadata_of(pod).get("uid")): pod_use(pod, self._uid, now) for pod in pods}
        workloads = {self._uid: created} if self._uid and created else {}
        self._held = self._held.model_copy(
            update={
                "workloads": self._held.workloads | workloads,
                "pods": self._held.pods | found,
            }
        )
        is_due = self._stored_at is None or now - self._stored_at >= STORE_EVERY
        if is_last or is_due or _shape(self._stored) != _shape(self._held):
            self.store()
            self._stored_at = now

    def store(self) -> None:
        """Write what is known; a failure is ignored, because the next call writes it again."""
        if self._held.pods and self._held != self._stored:
            with contextlib.suppress(TuneloopError):
                write_held(self._held, self._prefix)
                self._stored = self._held


def pod_use(pod: Object, workload: str, now: datetime) -> PodUse:
    """Return when a pod has held its node.

    Args:
        pod: the pod.
        workload: uid of its Job or JobSet.
        now: time on the server's clock.
    """
    status = status_of(pod)
    scheduled = mapping(condition(pod, "PodScheduled")).get("lastTransitionTime")
    start = _time(scheduled) or _time(status.get("startTime"))
    terminated = mapping(mapping(main_container(pod).get("state")).get("terminated"))
    has_ended = status.get("phase") in ("Succeeded", "Failed")
    end = _time(terminated.get("finishedAt")) or now if has_ended else None
    return PodUse(
        workload=workload,
        scheduled_at=start,
        ended_at=end,
        seen_at=now,
        failed=status.get("phase") == "Failed",
    )


def _shape(held: StageHeld | None) -> object:
    """Return what changes when a pod appears, starts or ends, but not from poll to poll."""
    return {
        uid: (pod.scheduled_at is not None, pod.ended_at is not None)
        for uid, pod in (held.pods.items() if held else ())
    }


def _chips(workload: dict[str, Any]) -> int:
    spec = workload["spec"]
    if workload.get("kind") == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    containers = spec["template"]["spec"]["containers"]
    limits = mapping(mapping(containers[0].get("resources")).get("limits"))
    return sum(int(limits[name]) for name in CHIP_RESOURCES if str(limits.get(name)).isdigit())


def _time(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
