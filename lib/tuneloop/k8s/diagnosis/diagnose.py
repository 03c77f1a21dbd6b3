"""Diagnose a stage: derive one verdict with cause, evidence and fix from its Kubernetes objects.

The rules are pure functions in a table, in order of priority. The first rule that recognizes the
state returns the verdict. Ages are computed only from the server's timestamps and the server's
clock.
"""

from __future__ import annotations

from collections.abc import Callable

from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.k8s.diagnosis import end_rules, queue_rules, run_rules, start_rules
from tuneloop.k8s.diagnosis.observed import (
    Observation,
    condition,
    entries,
    mapping,
    metadata_of,
    newest_events,
    seconds_since,
    status_of,
)
from tuneloop.k8s.diagnosis.pods import foreign_finalizers, pod_titles
from tuneloop.k8s.names import DEADLINE, QUEUE
from tuneloop.specs.cluster import TimeoutSpec

DEADLINE_GRACE_SECONDS = 60.0
"""Time to allow for the controller to report an exceeded deadline itself."""


def diagnose(seen: Observation, timeouts: TimeoutSpec | None = None) -> Verdict:
    """Return the verdict on a stage; never raises.

    Args:
        seen: state of the stage in cluster and storage.
        timeouts: how long to wait for a condition that may still resolve itself.
    """
    chosen = timeouts or TimeoutSpec()
    for rule in RULES:
        verdict = rule(seen, chosen)
        if verdict is not None:
            return verdict
    return Verdict(
        "Pulling",
        f"{seen.name} has no running pod yet",
        evidence=newest_events(seen),
        about=seen.title,
    )


def _succeeded(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    if not seen.record_published:
        return None
    failed = condition(seen.workload, "Failed") is not None
    after = "; its workload failed afterwards, which does not matter" if failed else ""
    return Verdict("Succeeded", f"the record is published{after}", exit_code=0)


def _gone(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Detect a workload that does not exist, or that is being deleted in the foreground."""
    deleted = bool(metadata_of(seen.workload).get("deletionTimestamp"))
    if seen.workload is not None and not deleted:
        return None
    if not seen.seen:
        return Verdict("Queued", f"{seen.name} does not exist yet")
    if seen.cancelled:
        return Verdict(
            "Cancelled",
            f"{seen.name} was cancelled with `tuneloop cancel`",
            "run again to continue from its last checkpoint",
            exit_code=30,
        )
    if seen.workload is None and any(
        event.get("reason") in ("Completed", "AllJobsCompleted")
        and mapping(event.get("involvedObject")).get("name") == seen.name
        for event in entries(list(seen.events))
    ):
        return Verdict(
            "Deleted",
            f"{seen.name} completed and was then removed, and no record of it is published",
            "check that its pods write to the same artifacts URL that you read, then run again",
            newest_events(seen),
            30,
        )
    does = "is being deleted" if deleted else "was deleted"
    held = [pod for pod in entries(list(seen.pods)) if foreign_finalizers(pod)]
    kept = ""
    if held:
        names = ", ".join(sorted({each for pod in held for each in foreign_finalizers(pod)}))
        kept = f"; finalizer {names} keeps {pod_titles(held)}"
    return Verdict(
        "Deleted",
        f"{seen.name} {does} by someone else before its record was published{kept}",
        ("remove the finalizer or ask its owner, then " if held else "")
        + "run again to continue from its last checkpoint",
        newest_events(seen),
        30,
        seen.title if deleted else "",
    )


def _overdue(seen: Observation, timeouts: TimeoutSpec) -> Verdict | None:
    """Enforce the total deadline, because disruptions can restart a JobSet without limit."""
    found = metadata_of(seen.workload)
    try:
        allowed = float(mapping(found.get("annotations"))[DEADLINE])
    except (KeyError, TypeError, ValueError):
        return None
    if QUEUE in mapping(found.get("labels")):
        return None  # time in a queue does not count; Kueue itself limits the time of execution
    age = seconds_since(
        status_of(seen.workload).get("startTime") or found.get("creationTimestamp"), seen.now
    )
    if age <= allowed + DEADLINE_GRACE_SECONDS:
        return None
    return Verdict(
        "DeadlineExceeded",
        f"{seen.name} has taken {age:.0f} s, expected at most {allowed:.0f} s for all attempts",
        f"raise {seen.setting}.deadline_seconds, then run again to continue",
        exit_code=31,
        about=seen.title,
    )


Rule = Callable[[Observation, TimeoutSpec], Verdict | None]
RULES: tuple[Rule, ...] = (
    _succeeded,
    _gone,
    end_rules.ended,
    _overdue,
    queue_rules.queued,
    start_rules.not_created,
    start_rules.waiting_container,
    start_rules.mount,
    start_rules.unscheduled,
    run_rules.node_lost,
    run_rules.held,
    run_rules.gang_failed,
    run_rules.running,
    run_rules.restarting,
    start_rules.pulling,
)
"""Evaluated in order: final states, queueing, pod creation and start-up, then what pods do."""
