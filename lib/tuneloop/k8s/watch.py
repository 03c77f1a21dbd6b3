"""Manage one stage on a cluster: create its objects, diagnose it, keep evidence, delete it."""

from __future__ import annotations

from typing import Any

from tuneloop.artifacts.evaluation.verdict import ArchivedVerdict, Verdict, write_verdict
from tuneloop.artifacts.progress import Progress
from tuneloop.artifacts.runs.submission import Submission, SubmittedStage
from tuneloop.k8s import names
from tuneloop.k8s.api import ClusterApi, Object
from tuneloop.k8s.confirmation import stamped
from tuneloop.k8s.diagnosis.diagnose import diagnose
from tuneloop.k8s.diagnosis.observed import Observation
from tuneloop.k8s.logs.archiver import LogArchiver
from tuneloop.k8s.logs.live import PodLogs
from tuneloop.k8s.observer import StageObserver
from tuneloop.k8s.usage import UsageMeter

_ENDED = {"Complete", "Failed", "Completed"}
"""Conditions of an ended workload: `Complete` and `Failed` of Jobs, `Completed` of JobSets."""


class StageWatch:
    """One stage of a submitted run."""

    def __init__(
        self,
        cluster: ClusterApi,
        submission: Submission,
        stage: SubmittedStage,
        owner: dict[str, str] | None = None,
    ) -> None:
        """Store the arguments; no request is sent yet."""
        self.cluster, self.submission, self.stage = cluster, submission, stage
        self._owner = owner
        self._observer = StageObserver(cluster, submission, stage)
        self._logs = LogArchiver(cluster, self.prefix, stage.workload)
        self._usage = UsageMeter(submission, stage, self.prefix)
        self._seen: Observation | None = None

    @property
    def kind(self) -> str:
        """Kind of the stage's workload: Job or JobSet."""
        return self._observer.kind

    @property
    def name(self) -> str:
        """Name of the stage's objects."""
        return self._observer.name

    @property
    def uid(self) -> str | None:
        """Uid of the workload that was seen last; None if there never was one."""
        return self._observer.uid

    @property
    def prefix(self) -> str:
        """URL of the prefix that the stage writes below."""
        return self._observer.prefix

    @property
    def progress(self) -> Progress | None:
        """The heartbeat that the last look read."""
        return self._observer.progress

    def create(self, *, replace_failed: bool) -> None:
        """Create the stage's objects, or adopt existing ones with its fingerprint.

        Args:
            replace_failed: whether to delete a workload that has ended without a record, after
                saving its evidence, and to create a new one.
        """
        if replace_failed:
            self.remove_failed()
        workload = _owned(self.stage.workload, self._owner)
        config_map = stamped(self.stage.config_map, self.submission)
        created = create_with_config_map(self.cluster, config_map, workload)
        self._observer.uid = created["metadata"]["uid"]

    def confirm(self) -> None:
        """Apply the stage's ConfigMap with the digest of the submission, but not its workload."""
        self.cluster.apply(stamped(self.stage.config_map, self.submission))

    def remove_failed(self) -> None:
        """Delete a workload that has ended without a record, after saving its evidence."""
        verdict = self.look()
        seen = self._seen
        if seen and not seen.record_published and has_ended(seen.workload):
            self.archive_logs()
            self.archive(verdict)
            self._delete()
            self._observer.uid = None

    def exists(self) -> bool:
        """Return whether the stage's workload is on the cluster."""
        return self.cluster.get(self.kind, self.name) is not None

    def look(self) -> Verdict:
        """Return the verdict on the current state of cluster and storage, without changing it."""
        self._seen = self._observer.observe()
        return diagnose(self._seen, self.submission.timeouts)

    def note_cancellation(self) -> None:
        """Store that `cancel` deletes the workload; other supervisors then know who deleted it."""
        verdict = self.look()
        seen = self._seen
        if seen is None or seen.workload is None or verdict.is_final:
            return
        self.archive_logs(at_once=True)
        cause = f"{self.name} was cancelled with `tuneloop cancel`"
        fix = "run again to continue from its last checkpoint"
        self.archive(Verdict("Cancelled", cause, fix, exit_code=30))

    def free(self) -> None:
        """Delete the workload unless it has ended; an ended one is kept as evidence."""
        workload = self._observer.workload()
        if workload is not None and not has_ended(workload):
            self._delete()

    def archive(self, verdict: Verdict) -> None:
        """Write verdict and evidence next to the stage's records, which outlive the Job's TTL."""
        seen = self._seen
        archived = ArchivedVerdict(
            state=verdict.state,
            cause=verdict.cause,
            fix=verdict.fix,
            evidence=verdict.evidence,
            exit_code=verdict.exit_code,
            about=verdict.about,
            at=seen.now.isoformat(timespec="seconds") if seen else None,
            workload=seen.workload if seen else None,
            pods=list(seen.pods) if seen else [],
            events=list(seen.events) if seen else [],
        )
        write_verdict(archived, self.prefix)

    def archive_logs(self, *, at_once: bool = False) -> bool:
        """Store new log lines of the pods of the last look; return whether all logs are complete.

        A restart may delete the pods with their logs.

        Args:
            at_once: whether to read all pods now, because they are about to be deleted; otherwise
                running pods are read every few seconds.
        """
        seen = self._seen
        if seen is not None:
            is_last = at_once or seen.record_published
            self._usage.look(seen.workload, list(seen.pods), seen.now, is_last=is_last)
        return self._logs.archive(list(seen.pods) if seen else [], at_once=at_once)

    def finish_logs(self) -> bool:
        """Store the last lines of a stage with a record; return whether all logs are complete."""
        pods = self._observer.pods()
        workload = self._seen.workload if self._seen else None
        self._usage.look(workload, pods, self.cluster.now(), is_last=True)
        return self._logs.archive(pods)

    def live_logs(self) -> PodLogs:
        """Return the logs of the stage's pods that the kubelets still have."""

        def look() -> tuple[Verdict, list[Any]]:
            verdict = self.look()
            return verdict, list(self._seen.pods) if self._seen else []

        return PodLogs(self.cluster, self.stage.workload, look)

    def _delete(self) -> None:
        if self._observer.uid is not None:
            self.cluster.delete(self.kind, self.name, uid=self._observer.uid)


def has_ended(workload: dict[str, Any] | None) -> bool:
    """Return whether a Job or JobSet has ended, successfully or not."""
    conditions = (workload or {}).get("status", {}).get("conditions", [])
    return any(c.get("type") in _ENDED and c.get("status") == "True" for c in conditions)


def create_with_config_map(cluster: ClusterApi, config_map: Object, workload: Object) -> Object:
    """Create a workload and the ConfigMap that it mounts, or adopt the existing workload.

    A workload from `stages/` of a rendered folder that nobody has started is replaced.

    Returns:
        The workload as the server stores it.
    """
    cluster.apply(config_map)
    created = cluster.create(workload)
    if created.adopted and _waits_for_a_person(created.object):
        metadata = created.object["metadata"]
        cluster.delete(workload["kind"], metadata["name"], uid=metadata["uid"])
        created = cluster.create(workload)
    # The workload becomes the owner of the ConfigMap, so that both are deleted together. This needs
    # a second request, because an owner must exist first.
    found = created.object
    owner = {key: found[key] for key in ("apiVersion", "kind")}
    owner |= {key: found["metadata"][key] for key in ("name", "uid")}
    cluster.apply(_owned(config_map, owner))
    return found


def _waits_for_a_person(workload: Object) -> bool:
    """Return whether a workload of `stages/` is still suspended and in no queue."""
    metadata = workload["metadata"]
    return (
        metadata.get("annotations", {}).get(names.START) == names.BY_HAND
        and workload["spec"].get("suspend") is True
        and names.QUEUE not in metadata.get("labels", {})
    )


def _owned(document: dict[str, Any], owner: dict[str, str] | None) -> dict[str, Any]:
    if owner is None:
        return document
    return {**document, "metadata": {**document["metadata"], "ownerReferences": [owner]}}
