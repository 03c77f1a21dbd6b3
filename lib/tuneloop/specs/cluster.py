"""Where and how a run is placed on a Kubernetes cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tuneloop.specs.base import DnsLabel, LabelKey, LabelValue, Quantity, Spec


class AcceleratorRequest(Spec):
    """A shape of machine and how to get it; manifests/k8s/accelerators.yaml says what exists."""

    accelerator: str = "cpu"
    """Key of a shape, for instance `cpu`, `v5e-2x2`, `v6e-16x16`, `l4-1` or `h100-80gb-8x4`."""
    slices: int = Field(default=1, ge=1)
    """TPU slices of this shape that train together over the data-centre network."""
    spot: bool = False
    """Use Spot machines: cheaper, taken away at 30 seconds' notice."""
    flex_start: bool = False
    """Wait for capacity and keep it for at most seven days."""
    reservation: LabelValue | None = None
    """Use machines of this reservation only; null: of none in particular."""
    compute_class: LabelValue | None = None
    """Let this ComputeClass of the cluster choose machines; null: the cluster's default."""
    placement_policy: LabelValue | None = None
    """Only nodes made with this placement policy, so that they stand close together; null: any."""
    topology_level: Literal["required", "preferred"] | None = None
    """Have Kueue put all pods into one topology domain, always or if it can; null: no wish."""
    topology_key: LabelKey | None = None
    """Node label of that domain, for instance cloud.google.com/gce-topology-block."""

    @model_validator(mode="after")
    def _topology_is_whole(self) -> AcceleratorRequest:
        if (self.topology_level is None) != (self.topology_key is None):
            raise ValueError("topology_level and topology_key are given together or not at all")
        return self


class PodResources(Spec):
    """What a machine gives to one pod."""

    cpu: Quantity = "2"
    """Cores; request and limit."""
    memory: Quantity = "4Gi"
    """Request and limit alike: memory is never overcommitted."""
    ephemeral_storage: Quantity = "10Gi"
    """Local disk for logs, temporary files and the writable volumes."""


class SubmitterSpec(PodResources):
    """The pod that holds a run's sequence in the cluster, `submit --detach`."""

    image: str | None = None
    """Image of target `base`, by digest; null: the stages', which has no client of the API server
    if it is of target `train`."""
    cpu: Quantity = "250m"
    """It waits, most of the time."""
    memory: Quantity = "512Mi"
    """The client of the API server alone takes 70 MB."""
    ephemeral_storage: Quantity = "1Gi"
    """It writes nothing but its log."""
    service_account: DnsLabel = "tuneloop-submitter"
    """Made with its Role by `submit --detach`; the only account with a token of the cluster."""
    account_annotations: dict[LabelKey, str] = Field(default={})
    """Of that account: the cloud identity that may read and write the artifacts."""


class StagePlacement(AcceleratorRequest, PodResources):
    """The machine of one stage and what it gives the stage's pod."""

    deadline_seconds: int = Field(default=86_400, ge=60)
    """How long the stage may take in all, retries included."""
    attempt_deadline_seconds: int | None = Field(default=None, ge=60)
    """How long one attempt of one pod may take; null: as long as the stage."""
    shards: int = Field(default=1, ge=1, le=1000)
    """Pods that share the work of export or eval; the result is the same for any number."""

    def accelerator_request(self) -> AcceleratorRequest:
        """The part that the table of accelerators answers."""
        fields = AcceleratorRequest.model_fields
        return AcceleratorRequest(**{name: getattr(self, name) for name in fields})


class GraceSpec(Spec):
    """How long a supervisor waits for what may still come, in seconds of the server's clock."""

    unschedulable_seconds: int = Field(default=900, ge=0)
    """For a node that fits, while no scale-up is under way."""
    provisioning_seconds: int = Field(default=3600, ge=0)
    """For a node that the autoscaler has promised."""
    image_pull_seconds: int = Field(default=600, ge=0)
    """For an image whose registry fails for now; one that is not there fails at once."""
    queue_seconds: int = Field(default=86_400, ge=0)
    """For Kueue to admit the stage."""
    progress_seconds: int = Field(default=1800, ge=60)
    """For the next heartbeat of a running stage."""


class ClusterSpec(Spec):
    """Where a run is placed on a Kubernetes cluster."""

    namespace: DnsLabel
    """Where the objects are made."""
    image: str | None = None
    """REPOSITORY@sha256:DIGEST of the stages' image; `--image` overrides it."""
    service_account: DnsLabel = "tuneloop-stage"
    """Whose cloud identity the stages use; it gets no token of the cluster."""
    store_token_secret: DnsLabel | None = None
    """Secret whose key `token` is the import stage's token of the trace store; null: none."""
    credentials_secret: DnsLabel | None = None
    """Secret for the object store where pods have no cloud identity: its keys become variables and
    files in /etc/tuneloop-credentials of every pod; null: none."""
    queue: DnsLabel | None = None
    """Kueue LocalQueue; null: none, and nothing is suspended."""
    priority_class: DnsLabel | None = None
    """Kueue WorkloadPriorityClass; null: the queue's default."""
    pod_priority_class: DnsLabel | None = None
    """Kubernetes PriorityClass of the stages' pods; null: the cluster's default."""
    ttl_days: int = Field(default=3, ge=1, le=30)
    """How long ended Jobs stay; below a day a supervisor can miss the end."""
    submitter: SubmitterSpec = SubmitterSpec()
    """Who holds the sequence of a detached run."""
    graces: GraceSpec = GraceSpec()
    """How long to wait for machines, images and queues before giving up."""
    budget_chip_hours: float | None = Field(default=None, gt=0)
    """Refuse a run whose stages could hold more chips x hours until their deadlines; null: any."""
    export: StagePlacement = StagePlacement()
    """Machine of the export stage."""
    train: StagePlacement = StagePlacement()
    """Machine of the train stage."""
    eval: StagePlacement = StagePlacement()
    """Machine of the eval stage."""
    import_: StagePlacement = Field(default=StagePlacement(), alias="import")
    """Machine of the import stage."""

    def placement(self, stage: str) -> StagePlacement:
        """The machine of a stage; the default one for a stage without a field of its own."""
        fields = {field.alias or name: name for name, field in type(self).model_fields.items()}
        found = getattr(self, fields[stage]) if stage in fields else None
        return found if isinstance(found, StagePlacement) else StagePlacement()
