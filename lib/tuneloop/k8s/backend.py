"""The Kubernetes backend: the stages of one run as Jobs and JobSets in one namespace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from tuneloop import provenance, resources
from tuneloop.artifacts.progress import Progress
from tuneloop.artifacts.submission import Submission, name_of, save_submission
from tuneloop.artifacts.verdict import Verdict
from tuneloop.errors import StageFailed
from tuneloop.k8s.api import ClusterApi
from tuneloop.k8s.watch import StageWatch, has_ended
from tuneloop.specs.run import RunSpec
from tuneloop.specs.stages import StageSpec
from tuneloop.specs.target import Machines, Target

if TYPE_CHECKING:
    from tuneloop.k8s.client.cluster import Cluster
    from tuneloop.k8s.rendering.manifests import Manifests
    from tuneloop.k8s.rendering.render import Renderer

POLL_SECONDS = 5.0

OwnerReference = dict[str, str]


class PlannedRun(Protocol):
    """The parts of a plan that are rendered."""

    @property
    def run_id(self) -> str:
        """Id of the run."""

    @property
    def spec(self) -> RunSpec:
        """The run spec."""

    @property
    def artifacts(self) -> str:
        """URL that everything is written below."""

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The stages in the order in which they run."""


class KubernetesBackend:
    """One run on one cluster. It keeps no state: a second backend adopts what the first created."""

    def __init__(
        self,
        submission: Submission,
        connect: Callable[[], ClusterApi],
        *,
        poll_seconds: float = POLL_SECONDS,
        owner: OwnerReference | None = None,
        machines: Mapping[str, Machines] | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            submission: the rendered run.
            connect: called once, when the cluster is first needed.
            poll_seconds: seconds between two polls.
            owner: the object that the stages' objects are deleted with; None: no object.
            machines: stage -> its machines, for `tuneloop plan`.
        """
        self.submission = submission
        self.poll_seconds = poll_seconds
        self._connect, self._owner, self._machines = connect, owner, machines or {}
        self._watches: dict[str, StageWatch] = {}

    @staticmethod
    def code_identity(spec: RunSpec, target: Target) -> str | None:
        """Return the digest of the image, which names the code that the stages run.

        Raises:
            SpecError: the spec has no placement, or there is no image with a digest.
        """
        from tuneloop.k8s.names import image_identity
        from tuneloop.k8s.rendering.manifests import image_of

        return image_identity(image_of(spec, target.image), allow_tag=target.allow_tag)

    @classmethod
    def place(cls, run: PlannedRun, target: Target) -> KubernetesBackend:
        """Render a run for the cluster that the target names; nothing is sent or written yet.

        Raises:
            SpecError: a shape is impossible, or the run could hold too many chip-hours.
        """
        from tuneloop.k8s.rendering.manifests import image_of, renderer_of
        from tuneloop.k8s.rendering.submission import build_submission

        commit: str | None = provenance.gather()["git_commit"]
        image = image_of(run.spec, target.image)
        renderer = renderer_of(run.spec, run.stages, _manifests(), image, commit)
        return cls(
            build_submission(run.run_id, run.artifacts, run.stages, renderer),
            lambda: connect(renderer.cluster.namespace, target),
            poll_seconds=target.poll_seconds,
            machines={stage.stage: _machines_of(renderer, stage) for stage in run.stages},
        )

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.submission.run_id

    @property
    def artifacts(self) -> str:
        """URL that everything is written below."""
        return self.submission.artifacts

    @property
    def image(self) -> str | None:
        """Container image of the stages."""
        return self.submission.image

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Stage -> fingerprint, in the order in which they run."""
        return {stage.name: stage.fingerprint for stage in self.submission.stages}

    @functools.cached_property
    def cluster(self) -> ClusterApi:
        """The cluster; connected to when it is first needed."""
        return self._connect()

    def machines(self, stage: str) -> Machines:
        """Return the machines of a stage; only a run that was placed here knows them."""
        return self._machines[stage]

    def connect(self) -> None:
        """Load the credentials and announce the cluster.

        Raises:
            UsageError: there are no credentials.
        """
        _ = self.cluster

    def save(self) -> None:
        """Write the submission, so that any machine can continue the run."""
        save_submission(self.submission)

    def exists(self, stage: str) -> bool:
        """Return whether the stage's workload is on the cluster."""
        return self._watch(stage).exists()

    def submit(self, stage: str, *, retry_failed: bool) -> None:
        """Create the stage's objects, or adopt those with its fingerprint."""
        self._watches.pop(stage, None)
        self._watch(stage).create(replace_failed=retry_failed)

    def poll(self, stage: str) -> Verdict:
        """Judge the stage by what cluster and storage show now; only reads."""
        return self._watch(stage).look()

    def progress(self, stage: str) -> Progress | None:
        """Return the heartbeat that the last poll has read."""
        return self._watch(stage).progress

    def archive(self, stage: str) -> None:
        """Store the logs of failed pods that the last poll has seen."""
        self._watch(stage).archive_logs()

    def give_up(self, stage: str, verdict: Verdict) -> None:
        """Store the verdict with its evidence, then free what the stage holds."""
        watch = self._watch(stage)
        watch.archive(verdict)
        watch.free()

    def cancel(self, stage: str) -> None:
        """Delete the stage's workload unless it has ended."""
        self._watch(stage).free()

    def cancel_run(self) -> list[str]:
        """Delete what the run has in the cluster; records and checkpoints remain.

        The submitter goes first: it would take the deletion of a stage for somebody else's.

        Returns:
            Kind and name of each deleted object.
        """
        submission = self.submission
        workloads = [submission.submitter_job, *(stage.workload for stage in submission.stages)]
        deleted = []
        for workload in workloads:
            kind, name = str(workload["kind"]), name_of(workload)
            found = self.cluster.get(kind, name)
            if found and self.cluster.delete(kind, name, uid=found["metadata"]["uid"]):
                deleted.append(f"{kind} {name}")
        return deleted

    def logs(self, stage: str) -> bytes:
        """Return the logs of the stage's pods, as far as the kubelets still have them."""
        return self._watch(stage).logs()

    def close(self) -> None:
        """Leave everything as it is: the cluster continues without this process."""

    def detach(self, first: str) -> None:
        """Create the Job that holds the sequence in the cluster, with its account and Role.

        Args:
            first: the stage that it will begin with; a failed attempt of it is deleted.
        """
        self._watch(first).remove_failed()
        *shared, job = self.submission.submitter
        for document in shared:
            self.cluster.ensure(document)
        found = self.cluster.get("Job", name_of(job))
        if found is not None and has_ended(found):
            # Of an earlier attempt; what it owned goes with it.
            self.cluster.delete("Job", name_of(job), uid=found["metadata"]["uid"])
        self.cluster.create(job)

    def own_stages(self) -> None:
        """Let the submitter's Job own what is created from now on.

        Raises:
            StageFailed: that Job is gone.
        """
        job = self.submission.submitter_job
        name = name_of(job)
        found = self.cluster.get("Job", name)
        if found is None:
            raise StageFailed(
                f"Job {name}: gone, expected the Job of this pod; submit the run again",
                stage="submit",
                exit_code=30,
            )
        uid: str = found["metadata"]["uid"]
        self._owner = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": name,
            "uid": uid,
        }

    def _watch(self, stage: str) -> StageWatch:
        if stage not in self._watches:
            submitted = next(each for each in self.submission.stages if each.name == stage)
            watch = StageWatch(self.cluster, self.submission, submitted, self._owner)
            self._watches[stage] = watch
        return self._watches[stage]


def connect(namespace: str, target: Target) -> Cluster:
    """Connect to a namespace and announce it.

    Raises:
        UsageError: there are no credentials, or no such context.
    """
    from tuneloop.k8s.client.cluster import Cluster

    cluster = Cluster.connect(namespace, context=target.context, kubeconfig=target.kubeconfig)
    target.announce(cluster.describe())
    return cluster


@functools.cache
def _manifests() -> Manifests:
    """The templates and the accelerator table that travel with the code, parsed once."""
    from tuneloop.k8s.rendering.manifests import FOLDER, load_manifests

    return load_manifests(str(resources.data_path(FOLDER)))


def _machines_of(renderer: Renderer, stage: StageSpec) -> Machines:
    shape = renderer.shape(stage)
    shard_count = renderer.cluster.placement(stage.stage).shard_count
    return Machines(
        where=renderer.cluster.namespace,
        accelerator=shape.key,
        hosts=shape.hosts * shape.slices * shard_count,
        chips=shape.chips * shard_count,
    )
