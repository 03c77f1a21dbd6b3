"""The Kubernetes backend: runs the stages of a run as Jobs and JobSets in one namespace."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tuneloop import provenance, resources
from tuneloop.artifacts import layout
from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.artifacts.progress import Progress
from tuneloop.artifacts.runs.cancellation import Cancellation
from tuneloop.artifacts.runs.run_manifest import RunManifest
from tuneloop.artifacts.runs.submission import Submission, save_submission, submission_url
from tuneloop.artifacts.usage.held import read_held
from tuneloop.errors import DataError, TuneloopError
from tuneloop.k8s.api import ClusterApi, Object
from tuneloop.k8s.cancellation import delete_workloads, workloads_of
from tuneloop.k8s.confirmation import is_confirmed
from tuneloop.k8s.logs.live import PodLogs
from tuneloop.k8s.submitters import OwnerReference, create_submitter, owner_of
from tuneloop.k8s.watch import StageWatch
from tuneloop.specs.cluster import ClusterSpec
from tuneloop.specs.run import RunSpec
from tuneloop.specs.sampling import AnyRunSpec
from tuneloop.specs.stages import StageSpec
from tuneloop.specs.target import Machines, StageNeeds, Target
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.compilation import TargetDevices

if TYPE_CHECKING:
    from tuneloop.k8s.client.cluster import Cluster
    from tuneloop.k8s.rendering.manifests import Manifests
    from tuneloop.k8s.rendering.render import Renderer

POLL_SECONDS = 5.0
LAST_LINES_SECONDS = 3.0
"""Seconds to wait, at the end of a run, for a pod to end after it has published its record."""


class PlannedRun(Protocol):
    """The parts of a plan that the renderer needs."""

    @property
    def run_id(self) -> str:
        """Id of the run."""

    @property
    def spec(self) -> AnyRunSpec:
        """The run spec."""

    @property
    def artifacts(self) -> str:
        """URL of the prefix that all results are written below."""

    @property
    def architecture(self) -> Architecture | None:
        """Family and shape of the model that the run starts from; None without a model."""

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The stages in the order in which they run."""

    def needs(self, devices: Mapping[str, TargetDevices | None]) -> Mapping[str, StageNeeds]:
        """Estimate what each stage needs on its devices; None means a CPU."""

    def manifest(self, image: str | None) -> RunManifest:
        """Build the run manifest."""


class KubernetesBackend:
    """One run on one cluster.

    The backend keeps no state of its own. A second backend adopts the objects that the first one
    created.
    """

    def __init__(
        self,
        submission: Submission,
        connect: Callable[[], ClusterApi],
        *,
        poll_seconds: float = POLL_SECONDS,
        owner: OwnerReference | None = None,
        machines: Mapping[str, Machines] | None = None,
        is_from_storage: bool = False,
        sweep_id: str | None = None,
    ) -> None:
        """Store the arguments; no request is sent yet.

        Args:
            submission: the rendered run.
            connect: called once, when the cluster is first needed.
            poll_seconds: seconds between two polls.
            owner: owner of the stages' objects, which are deleted with it; None means no owner.
            machines: stage -> its machines, for `tuneloop plan`.
            is_from_storage: whether the submission was read from the artifacts, where stages may
                write; nothing is then created unless the cluster confirms it.
            sweep_id: sweep that the run is a member of, whose submitter may confirm it.
        """
        self.submission = submission
        self.poll_seconds = poll_seconds
        self._connect, self._owner, self._machines = connect, owner, machines or {}
        self._watches: dict[str, StageWatch] = {}
        self._ending: set[str] = set()
        self._is_from_storage, self._sweep_id = is_from_storage, sweep_id

    @staticmethod
    def code_identity(spec: AnyRunSpec, target: Target) -> str | None:
        """Return the digest of the image, which identifies the code that the stages run.

        Raises:
            SpecError: the spec has no `execution.cluster`, or no image with a digest is given.
        """
        from tuneloop.k8s.names import image_identity
        from tuneloop.k8s.rendering.manifests import image_of

        return image_identity(image_of(spec, target.image), allow_tag=target.allow_tag)

    @classmethod
    def place(cls, run: PlannedRun, target: Target) -> KubernetesBackend:
        """Render a run for the cluster of the target; nothing is sent or written yet.

        Raises:
            SpecError: a shape is impossible, the batch or the model does not divide among its
                devices, or the run could hold too many chip-hours.
        """
        from tuneloop.k8s.rendering.manifests import check_budget
        from tuneloop.k8s.rendering.submission import build_submission

        renderer = placed_renderer(run, target)
        check_budget(run.spec, run.stages, renderer)
        manifest = run.manifest(renderer.image)
        return cls(
            build_submission(manifest, run.artifacts, run.stages, renderer),
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
        """URL of the prefix that all results are written below."""
        return self.submission.artifacts

    @property
    def image(self) -> str | None:
        """Container image of the stages."""
        return self.submission.image

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Stage -> fingerprint, in the order in which the stages run."""
        return {stage.name: stage.fingerprint for stage in self.submission.stages}

    @functools.cached_property
    def cluster(self) -> ClusterApi:
        """The cluster; the connection is made on first use."""
        return self._connect()

    def machines(self, stage: str) -> Machines:
        """Return the machines of a stage; available only if `place` created this backend."""
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
        """Create the stage's objects, or adopt those with its fingerprint.

        Raises:
            DataError: the submission comes from the artifacts, and nothing on the cluster shows
                that somebody with rights there has submitted it.
        """
        self._watches.pop(stage, None)
        if not self.is_confirmed():
            if self.exists(stage):
                return  # it is watched, and nothing is created
            raise DataError(
                f"{submission_url(self.artifacts, self.run_id)}: namespace"
                f" {self.submission.namespace} has no object of this run that was created from it,"
                f" expected one, because stages can change this file; run `tuneloop submit` with"
                " the spec again, which continues the run"
            )
        self._watch(stage).create(replace_failed=retry_failed)

    def is_confirmed(self) -> bool:
        """Return whether the submission is the caller's own, or one that the cluster confirms."""
        return not self._is_from_storage or is_confirmed(
            self.cluster, self.submission, sweep_id=self._sweep_id
        )

    def confirm(self, stage: str) -> None:
        """Leave the digest of the submission on the cluster, so that `wait` may create the stage.

        Args:
            stage: the next stage, whose ConfigMap holds the digest.
        """
        self._watch(stage).confirm()

    def poll(self, stage: str) -> Verdict:
        """Return the verdict on the current state of cluster and storage, without changing it."""
        return self._watch(stage).look()

    def progress(self, stage: str) -> Progress | None:
        """Return the heartbeat that the last poll read."""
        return self._watch(stage).progress

    def attempt(self, stage: str) -> str:
        """Return the uid of the workload that was seen last; empty if there never was one."""
        return self._watch(stage).uid or ""

    def archive(self, stage: str) -> None:
        """Store new log lines of the pods of the last poll, and the last ones of earlier stages."""
        self._watch(stage).archive_logs()
        self._ending = {name for name in self._ending if not self._watch(name).finish_logs()}

    def succeeded(self, stage: str) -> None:
        """Remember that the pods of a stage may write a few more lines after its record."""
        self._ending.add(stage)

    def settle(self, stage: str) -> None:
        """Store the end of the stage's pods if it is not known yet; a failure is ignored."""
        prefix = layout.stage_prefix(self.artifacts, self.run_id, stage)
        with contextlib.suppress(TuneloopError):
            held = read_held(prefix)
            if held is not None and held.is_open:
                self._watch(stage).look()
                self._watch(stage).finish_logs()

    def give_up(self, stage: str, verdict: Verdict) -> None:
        """Store the verdict with its evidence, then delete the workload unless it has ended."""
        watch = self._watch(stage)
        watch.archive_logs(at_once=True)
        watch.archive(verdict)
        watch.free()

    def cancel(self, stage: str) -> None:
        """Delete the stage's workload unless it has ended."""
        self._watch(stage).free()

    def cancel_run(self, stage: str | None = None, *, wait_seconds: float = 0.0) -> Cancellation:
        """Delete the run's workloads and wait until they are gone; records and checkpoints remain.

        Args:
            stage: the only stage to cancel; None cancels the run and its submitter.
            wait_seconds: maximum seconds to wait for objects and pods to disappear.
        """
        self.note_cancellation(stage)
        workloads = workloads_of(self.submission, stage)
        return delete_workloads(self.cluster, self.run_id, workloads, wait_seconds)

    def note_cancellation(self, stage: str | None = None) -> None:
        """Store that the run is cancelled, before its workloads are deleted.

        Args:
            stage: the only stage to cancel; None cancels the run.
        """
        for name in self.fingerprints:
            if stage in (None, name):
                self._watch(name).note_cancellation()

    def live_logs(self, stage: str) -> PodLogs:
        """Return the logs of the stage's pods that the kubelets still have."""
        return self._watch(stage).live_logs()

    def close(self) -> None:
        """Store the last log lines; the run continues on the cluster without this process."""
        for stage in self._ending:
            watch = self._watch(stage)
            Retrying(
                retry=retry_if_result(lambda is_complete: not is_complete),
                stop=stop_after_delay(LAST_LINES_SECONDS),
                wait=wait_fixed(0.5),
                retry_error_callback=lambda state: False,
            )(watch.finish_logs)
        self._ending = set()

    def detach(self, first: str) -> None:
        """Create the submitter Job, which runs the sequence in the cluster, and its account.

        Args:
            first: stage that the submitter begins with; a failed workload of it is deleted.
        """
        self.remove_failed(first)
        create_submitter(self.cluster, self.submission.submitter, self._submitter_config_map())

    def remove_failed(self, stage: str) -> None:
        """Delete a workload of the stage that has failed, after saving its evidence."""
        self._watch(stage).remove_failed()

    def _submitter_config_map(self) -> Object:
        from tuneloop.k8s.rendering.submitter import render_config_map

        return render_config_map(self.submission, shipped_manifests().templates.submission)

    def files(self) -> dict[str, str]:
        """Return the files of the folder that `tuneloop render` writes: relative path -> text."""
        from tuneloop.k8s.rendering.folder import folder_files

        config_map = self._submitter_config_map()
        return folder_files(self.submission, config_map, shipped_manifests().templates)

    def own_stages(self) -> None:
        """Make the submitter's Job the owner of all objects that are created from now on.

        Raises:
            StageFailed: the Job does not exist any more.
        """
        self._owner = owner_of(self.cluster, self.submission.submitter_job)

    def _watch(self, stage: str) -> StageWatch:
        if stage not in self._watches:
            submitted = next(each for each in self.submission.stages if each.name == stage)
            watch = StageWatch(self.cluster, self.submission, submitted, self._owner)
            self._watches[stage] = watch
        return self._watches[stage]


def placed_renderer(
    run: PlannedRun, target: Target, *, least_deadline_seconds: int = 0
) -> Renderer:
    """Build the renderer of a run, with the memory and the deadlines that its stages need.

    Args:
        run: the planned run.
        target: settings of the command line.
        least_deadline_seconds: least deadline of a stage for which the spec states none.

    Raises:
        SpecError: a shape is impossible, or the batch or the model does not divide among its
            devices.
    """
    from tuneloop.k8s.rendering.manifests import image_of, renderer_of

    commit: str | None = provenance.gather()["git_commit"]
    renderer = renderer_of(run.spec, shipped_manifests(), image_of(run.spec, target.image), commit)
    cluster = renderer.cluster
    devices = train_devices(cluster)
    if isinstance(run.spec, RunSpec) and devices is not None and run.architecture is not None:
        run.spec.train.mesh_sizes(devices.devices, devices.slices, run.architecture)
    needs = run.needs({each.stage: stage_devices(cluster, each.stage) for each in run.stages})
    return replace(renderer, cluster=cluster.with_needs(needs, least_deadline_seconds))


def train_devices(cluster: ClusterSpec) -> TargetDevices | None:
    """Describe the devices of the train stage for estimates and compilers; None for CPUs.

    Raises:
        SpecError: the accelerator does not exist.
    """
    return stage_devices(cluster, "train")


def stage_devices(cluster: ClusterSpec, stage: str) -> TargetDevices | None:
    """Describe the devices of a stage for estimates; None for CPUs.

    Raises:
        SpecError: the accelerator does not exist.
    """
    return shipped_manifests().accelerators.devices(cluster.placement(stage).accelerator_request())


def larger_devices(cluster: ClusterSpec) -> list[TargetDevices]:
    """Describe the shapes that have more of the train stage's chips, smallest first.

    Raises:
        SpecError: the accelerator does not exist.
    """
    request = cluster.placement("train").accelerator_request()
    return shipped_manifests().accelerators.larger_devices(request)


def connect(namespace: str, target: Target) -> Cluster:
    """Connect to a namespace and announce it.

    Raises:
        UsageError: there are no credentials, or the context does not exist.
    """
    from tuneloop.k8s.client.cluster import Cluster

    cluster = Cluster.connect(namespace, context=target.context, kubeconfig=target.kubeconfig)
    target.announce(cluster.describe())
    return cluster


@functools.cache
def shipped_manifests() -> Manifests:
    """Load the templates and the accelerator table that ship with the code; parsed once."""
    from tuneloop.k8s.rendering.manifests import FOLDER, load_manifests

    return load_manifests(str(resources.data_path(FOLDER)))


def _machines_of(renderer: Renderer, stage: StageSpec) -> Machines:
    shape = renderer.shape(stage)
    placement = renderer.cluster.placement(stage.stage)
    return Machines(
        where=renderer.cluster.namespace,
        accelerator=shape.key,
        hosts=shape.hosts * shape.slices * placement.shard_count,
        chips=shape.chips * placement.shard_count,
        memory=placement.memory,
        deadline_seconds=placement.deadline_seconds,
    )
