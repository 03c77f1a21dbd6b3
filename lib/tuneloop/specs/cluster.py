"""The cluster part of a run spec: machines, queues, accounts and timeouts on Kubernetes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from tuneloop.specs.base import DnsLabel, LabelKey, LabelValue, Quantity, Spec
from tuneloop.specs.target import StageNeeds

PodSecurity = Literal["restricted", "baseline"]


class AcceleratorRequest(Spec):
    """A machine shape and how to obtain it; `manifests/k8s/accelerators.yaml` lists the shapes."""

    accelerator: str = "cpu"
    """Machine shape, such as `cpu`, `v5e-2x2`, `v6e-16x16`, `l4-1` or `h100-80gb-8x4`."""
    slices: int = Field(default=1, ge=1)
    """TPU slices that train one model together over the data-centre network."""
    spot: bool = False
    """Use Spot machines: cheaper, but the cloud may reclaim them with 30 seconds' notice."""
    flex_start: bool = False
    """Use GKE flex-start: wait for capacity, then keep it for at most seven days."""
    reservation: LabelValue | None = None
    """Name of the reservation whose machines are used; null uses machines outside reservations."""
    compute_class: LabelValue | None = None
    """GKE ComputeClass that chooses the machines; null leaves the choice to the cluster."""
    placement_policy: LabelValue | None = None
    """Compact placement policy that the nodes must have been created with; null allows any node."""
    topology_level: Literal["required", "preferred"] | None = None
    """Whether Kueue must (`required`) or should (`preferred`) place all pods in one topology
    domain; null requests no placement."""
    topology_key: LabelKey | None = None
    """Node label that defines the topology domain, such as `cloud.google.com/gce-topology-block`;
    set it together with `topology_level`."""
    pod_security: PodSecurity | None = None
    """PodSecurity level that the pods satisfy: `restricted` runs them as user 10001, and `baseline`
    as root without capabilities, for nodes on which devices belong to root; the namespace must
    allow it; null uses the accelerator table's value, which is `restricted` unless changed."""

    @model_validator(mode="after")
    def _topology_is_whole(self) -> AcceleratorRequest:
        if (self.topology_level is None) != (self.topology_key is None):
            raise ValueError("expected topology_level and topology_key together, or neither")
        return self


DEFAULT_MEMORY = "4Gi"
DEFAULT_DEADLINE_SECONDS = 86_400
"""Deadline of a stage without an estimate of its time."""
DEADLINE_FACTOR = 10
"""Deadline for each second of a stage's least time: chips reach a third of their peak rate or less,
and attempts that fail count too."""
FLEX_START_HOURS = 7 * 24 - 1
"""Longest default deadline with flex-start, which keeps machines for seven days."""
START_SECONDS = 4 * 3600
"""Deadline beside that, for everything that no estimate covers, such as compiling and uploads."""


class PodResources(Spec):
    """CPU, memory and local disk of one pod."""

    cpu: Quantity = "2"
    """CPU cores of one pod, as request and limit."""
    memory: Quantity = DEFAULT_MEMORY
    """Memory of one pod, as request and limit; a pod that uses more is killed."""
    ephemeral_storage: Quantity = "10Gi"
    """Local disk of one pod, for logs, temporary files and writable volumes."""


class SubmitterSpec(PodResources):
    """The in-cluster submitter: the pod that submits stage after stage (`submit --detach`)."""

    image: str | None = None
    """Submitter image as REPOSITORY@sha256:DIGEST, built from target `base`; null uses the stages'
    image, which must then contain the Kubernetes client (target `train` does not)."""
    cpu: Quantity = "250m"
    """CPU cores of the submitter; it mostly waits."""
    memory: Quantity = "512Mi"
    """Memory of the submitter; the Kubernetes client alone takes 70 MB."""
    ephemeral_storage: Quantity = "1Gi"
    """Local disk of the submitter; it writes only its log."""
    service_account: DnsLabel = "tuneloop-submitter"
    """ServiceAccount of the submitter; the only account that gets a token of the API server."""
    create_account: bool = True
    """Whether `submit --detach` and the rendered folder create that account with its Role; set it
    to false in a namespace of the cluster base, which has both, because `kubectl apply` would
    remove the account's annotations that this spec does not repeat."""
    account_annotations: dict[LabelKey, str] = Field(default={})
    """Annotations of the submitter's ServiceAccount, such as the cloud identity that may read and
    write the artifacts."""


class StagePlacement(AcceleratorRequest, PodResources):
    """The machines and pod resources of one stage."""

    memory: Quantity = DEFAULT_MEMORY
    """Memory of one pod, as request and limit; a pod that uses more is killed. If it is not set,
    train, eval and sample request a tenth more than is estimated for their model and machines, and
    at least the default; `tuneloop plan` shows it."""
    deadline_seconds: int = Field(default=DEFAULT_DEADLINE_SECONDS, ge=60)
    """Seconds that the stage may take in total, retries included. If it is not set, it is ten times
    the least time of the stage, plus four hours, plus the time to get a node and an image; the
    default is used if the least time is not known, as on a CPU. `tuneloop plan` shows it."""
    attempt_deadline_seconds: int | None = Field(default=None, ge=60)
    """Seconds that one attempt of one pod may take; null means `deadline_seconds`."""
    shard_count: int = Field(default=1, ge=1, le=1000)
    """Pods that share the work of export, eval, sample or score; more pods finish sooner with the
    same result."""
    queue: DnsLabel | None = None
    """Kueue LocalQueue that admits this stage, such as a queue with accelerators; null uses
    `execution.cluster.queue`."""

    def accelerator_request(self) -> AcceleratorRequest:
        """Return the fields that the accelerator table resolves to machines."""
        fields = AcceleratorRequest.model_fields
        return AcceleratorRequest(**{name: getattr(self, name) for name in fields})


class TimeoutSpec(Spec):
    """Time limits for a stage that makes no progress, in seconds of the API server's clock."""

    unschedulable_seconds: int = Field(default=900, ge=0)
    """Seconds a pod may stay unschedulable, with no scale-up in progress, before the stage
    fails."""
    provisioning_seconds: int = Field(default=3600, ge=0)
    """Seconds to wait for a node after the autoscaler has started a scale-up."""
    image_pull_seconds: int = Field(default=600, ge=0)
    """Seconds to retry an image pull after a temporary registry error; a missing image fails at
    once."""
    queue_seconds: int = Field(default=86_400, ge=0)
    """Seconds to wait until Kueue admits the stage."""
    progress_seconds: int = Field(default=1800, ge=60)
    """Seconds a running stage may go without a heartbeat before it is deleted as stuck."""


class ClusterSpec(Spec):
    """Settings of a run on a Kubernetes cluster."""

    namespace: DnsLabel
    """Namespace in which all objects are created."""
    image: str | None = None
    """Image of the stages as REPOSITORY@sha256:DIGEST; `--image` overrides it."""
    service_account: DnsLabel = "tuneloop-stage"
    """ServiceAccount of the stages' pods, which supplies their cloud identity; it gets no token of
    the API server."""
    store_token_secret: DnsLabel | None = None
    """Secret whose key `token` holds the trace store token of stages that use the store; null sends
    none."""
    shared_artifacts: bool = False
    """Whether pods see `execution.artifacts` at the same path although it is a folder, such as a
    network file system that your pod template mounts; `check` refuses a folder otherwise."""
    credentials_secret: DnsLabel | None = None
    """Secret with object store credentials, for clusters without a cloud identity for pods; its
    keys become environment variables and files in /etc/tuneloop-credentials; null mounts none."""
    compile_cache_claim: DnsLabel | None = None
    """PersistentVolumeClaim that keeps compiled programs of stages with accelerators; if several
    pods use it at once, it must be ReadWriteMany; null keeps them next to the artifacts."""
    queue: DnsLabel | None = None
    """Kueue LocalQueue that admits the stages that name no queue of their own; null starts those
    at once, without Kueue."""
    priority_class: DnsLabel | None = None
    """Kueue WorkloadPriorityClass of the stages; null uses the queue's default."""
    pod_priority_class: DnsLabel | None = None
    """Kubernetes PriorityClass of the stages' pods; null uses the cluster's default."""
    ttl_days: int = Field(default=3, ge=1, le=30)
    """Days that finished Jobs are kept before the cluster deletes them."""
    submitter: SubmitterSpec = SubmitterSpec()
    """Pod and account of the in-cluster submitter (`submit --detach` or a rendered folder)."""
    timeouts: TimeoutSpec = TimeoutSpec()
    """Time limits for waiting on machines, images, queues and heartbeats."""
    budget_chip_hours: float | None = Field(default=None, gt=0)
    """Maximum chip-hours of a run, if every stage runs until its deadline; a larger run is refused;
    null sets no limit."""
    export: StagePlacement = StagePlacement()
    """Machines of the export stage."""
    train: StagePlacement = StagePlacement()
    """Machines of the train stage."""
    eval: StagePlacement = StagePlacement()
    """Machines of the eval stage."""
    sample: StagePlacement = StagePlacement()
    """Machines of the sample stage."""
    score: StagePlacement = StagePlacement()
    """Machines of the score stage."""
    import_: StagePlacement = Field(default=StagePlacement(), alias="import")
    """Machines of the import stage."""

    def placement(self, stage: str) -> StagePlacement:
        """Return the machines of a stage; the defaults for a stage that has no field here."""
        found = getattr(self, _field_of(stage), None)
        return found if isinstance(found, StagePlacement) else StagePlacement()

    def with_needs(
        self, needs: Mapping[str, StageNeeds], least_deadline_seconds: int = 0
    ) -> ClusterSpec:
        """Return the spec with the defaults of memory and deadline that follow from estimates.

        Args:
            needs: stage -> its estimates; what the spec states is kept.
            least_deadline_seconds: least deadline of a stage for which the spec states none.
        """
        changes = {}
        for stage, need in needs.items():
            place = self.placement(stage)
            found = {
                "memory": _default_memory(need),
                "deadline_seconds": max(
                    least_deadline_seconds, _default_deadline(need, place, self.timeouts)
                ),
            }
            stated = place.model_fields_set
            new = {key: value for key, value in found.items() if key not in stated}
            changes[_field_of(stage)] = place.model_copy(update=new)
        return self.model_copy(update=changes)


def _field_of(stage: str) -> str:
    """Return the attribute of ClusterSpec with the machines of a stage."""
    fields = {field.alias or name: name for name, field in ClusterSpec.model_fields.items()}
    return fields.get(stage, "")


def _default_memory(need: StageNeeds) -> str:
    """A tenth more than the estimate, as whole GiB; the least is enough for small models."""
    least = int(DEFAULT_MEMORY.removesuffix("Gi"))
    return f"{max(least, math.ceil(1.1 * (need.memory_bytes or 0) / 2**30))}Gi"


def _default_deadline(need: StageNeeds, place: StagePlacement, timeouts: TimeoutSpec) -> int:
    """Return the deadline of a stage that states none, in whole hours."""
    attempt = place.attempt_deadline_seconds or 0
    if need.seconds is None:
        return max(DEFAULT_DEADLINE_SECONDS, attempt)
    waiting = timeouts.provisioning_seconds + timeouts.image_pull_seconds
    work = DEADLINE_FACTOR * need.seconds / place.shard_count
    hours = math.ceil((START_SECONDS + waiting + work) / 3600)
    if place.flex_start:
        hours = min(hours, FLEX_START_HOURS)
    return max(3600 * hours, attempt)
