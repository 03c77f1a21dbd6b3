"""What people ask for: the run spec, and the stage specs that a plan makes of it.

One rule: a field either names the result (identity) or says where it is made (execution). Identity
enters the fingerprint; `execution` never does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

StageName = Literal["export", "train", "eval", "import"]
STAGES: tuple[StageName, ...] = ("export", "train", "eval", "import")
"""The stages in the order of the loop; each reads only the records of stages before it."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]

# The API server refuses any other text in these places: say it before it is asked.
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")]
LabelKey = Annotated[
    str,
    Field(
        max_length=253,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
    ),
]
Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(\.[0-9]+)?(m|[kMGT]i?)?$")]
"""Of a resource, as text: a client that types it as one refuses a bare number."""


class Spec(BaseModel):
    """Base of every spec: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Gemma3Spec(Spec):
    """A Gemma 3 text model built from its shape, with weights drawn anew from the seed."""

    kind: Literal["gemma3"] = "gemma3"
    num_layers: int = Field(default=2, ge=1, le=128)
    """Transformer blocks; every sixth attends globally, as in Gemma 3."""
    embed_dim: int = Field(default=128, ge=8, le=16384)
    """Width of the residual stream."""
    hidden_dim: int = Field(default=512, ge=8, le=131072)
    """Width of the feed-forward layer."""
    num_heads: int = Field(default=4, ge=1, le=256)
    """Query heads."""
    num_kv_heads: int = Field(default=2, ge=1, le=256)
    """Key and value heads; divides num_heads."""
    head_dim: int = Field(default=32, ge=2, le=1024)
    """Width of one head; even, because RoPE turns pairs."""
    sliding_window_tokens: int = Field(default=64, ge=1)
    """How far a local layer looks back."""

    @model_validator(mode="after")
    def _shape_fits(self) -> Gemma3Spec:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, RoPE needs an even one")
        return self


class TokenizerSpec(Spec):
    """A SentencePiece BPE tokenizer trained on the examples' own text."""

    kind: Literal["sentencepiece_bpe"] = "sentencepiece_bpe"
    vocab_size: int = Field(default=400, ge=64, le=262144)
    """Pieces asked for; small text yields fewer, and the count is padded to a multiple of 64."""
    sample_examples: int = Field(default=2000, ge=1)
    """How many examples, the first in export order, it is trained on."""


class OptimizerSpec(Spec):
    """AdamW with global-norm clipping, linear warm-up and cosine decay."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=5e-3, gt=0, lt=10)
    """Peak, after the warm-up."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps that rise linearly from 0; at least one step."""
    final_fraction: float = Field(default=0.05, ge=0, le=1)
    """The learning rate of the last step, as a share of the peak."""
    b1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    b2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Global gradient norm above which gradients are scaled down."""


class ExportSpec(Spec):
    """Traces to training examples."""

    shard_examples: int = Field(default=50_000, ge=1)
    """Traces that one output file is made of; the last one is made of the rest."""
    compression: Literal["none", "zstd"] = "none"
    """Of the files of examples; zstd's can be read from the middle as well."""
    max_length: int | None = Field(default=None, ge=8)
    """Longest example, prompt and response together, in characters, or in tokens as they are
    trained on where `tokenizer` is given; null: any."""
    tokenizer: str | None = None
    """URL of a SentencePiece model to count tokens with; its content is part of the identity."""
    over_length: Literal["fail", "drop", "truncate_steps"] = "fail"
    """What happens to a longer one: stop with its id, leave it out, or leave out middle steps."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Examples that read the same but for case and white space; the first in the dataset stays."""
    near_duplicates: Literal["drop", "keep"] = "keep"
    """Examples that share most of their runs of five words (MinHash); the first one stays."""
    contamination: Literal["fail", "drop", "report", "off"] = "drop"
    """Traces that overlap the eval set: stop, leave out, mark and count, or do not look."""
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the groups whose examples go to validation files."""
    group_by: str | None = Field(default=None, min_length=1)
    """Key of a trace's meta whose value names its group; null, or absent there: the prompt."""

    @model_validator(mode="after")
    def _limit_has_a_value(self) -> ExportSpec:
        if self.over_length != "fail" and self.max_length is None:
            raise ValueError(f"over_length is {self.over_length}, but max_length is not given")
        return self


class TrainSpec(Spec):
    """Supervised fine-tuning with a loss on the response alone."""

    model: Gemma3Spec = Gemma3Spec()
    """The network."""
    tokenizer: TokenizerSpec = TokenizerSpec()
    """How text becomes tokens."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The update rule and its schedule."""
    steps: int = Field(ge=1)
    """Optimizer updates."""
    batch_size: int = Field(ge=1)
    """Examples in one update; epoch after epoch, each in an order of its own."""
    max_length_tokens: int = Field(ge=8)
    """Tokens in one row, prompt and response and control tokens together."""
    over_length: Literal["fail", "drop", "truncate"] = "fail"
    """What happens to a longer example: stop with its id, leave it out, or cut its tail."""


class EvalSpec(Spec):
    """Greedy generation by base and tuned model on one static eval set, scored and compared."""

    eval_set: str
    """URL of the JSONL eval set; its content, not its place, is part of the identity."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts generated at once; the last batch is filled up, so that shapes stay constant."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Tokens generated at most; null: the longest training response and 4 more."""
    allow_unchecked: bool = False
    """Evaluate although nobody looked for the eval set in the training set; the report says so."""


class ImportSpec(Spec):
    """Eval traces back into the store."""

    batch_traces: int = Field(default=1000, ge=1, le=1000)
    """Traces in one request; the store takes a batch whole or not at all."""


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
    account_annotations: dict[LabelKey, str] = {}
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

    @model_validator(mode="after")
    def _only_export_and_eval_have_shards(self) -> ClusterSpec:
        for name in STAGES:
            if name not in ("export", "eval") and self.placement(name).shards > 1:
                raise ValueError(
                    f"{name}.shards is more than 1, but only export and eval share work"
                )
        return self

    def placement(self, stage: StageName) -> StagePlacement:
        """The machine of a stage."""
        placements: dict[str, StagePlacement] = {
            "export": self.export,
            "train": self.train,
            "eval": self.eval,
            "import": self.import_,
        }
        return placements[stage]


class ExecutionSpec(Spec):
    """Where and how a run is made; never part of its identity."""

    artifacts: str = ".tuneloop/artifacts"
    """URL of the prefix that holds datasets/, training_runs/ and stages/."""
    datasets_url: str | None = None
    """Where the dataset is read from: another prefix that holds datasets/, or the address of a
    trace store (http or https), which streams it; null: artifacts."""
    store_url: str = "http://127.0.0.1:8000"
    """The trace store that the eval traces are posted to."""
    checkpoint_every_steps: int = Field(default=100, ge=1)
    """Steps between two checkpoints; a stage that is killed continues from the last one."""
    cluster: ClusterSpec | None = None
    """Where it runs on Kubernetes; null: on this machine alone."""

    @property
    def datasets(self) -> str:
        """URL below which datasets lie."""
        return self.datasets_url or self.artifacts


class RunSpec(Spec):
    """One pass of the loop, as people write it in YAML."""

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$")
    """Begins every run id of this spec: lower-case letters, digits and dashes, a letter first."""
    dataset: str = Field(min_length=1, max_length=200)
    """Key of a built dataset under <artifacts>/datasets/."""
    seed: Seed | None = None
    """Seed of weights, batches and generation; null: the dataset's own."""
    system_instruction: str | None = None
    """Put before every user turn, in training and evaluation alike (Gemma 3 has no system role)."""
    export: ExportSpec = ExportSpec()
    """Options of the export stage."""
    train: TrainSpec
    """Options of the train stage."""
    eval: EvalSpec
    """Options of the eval stage."""
    import_: ImportSpec = Field(default=ImportSpec(), alias="import")
    """Options of the import stage."""
    execution: ExecutionSpec = ExecutionSpec()
    """Where it runs."""


class DatasetRef(Spec):
    """The dataset a plan was made for, by content."""

    key: str
    """Its key: the folder under <artifacts>/datasets/."""
    build_id: str
    """Names the content; a stage refuses a manifest with another."""
    recipe: str
    """How traces become prompt and response."""
    instruction: str | None
    """Put behind every prompt, in training and evaluation alike."""


class StageSpecBase(Spec):
    """What one stage process needs to know; made by a plan, read from `--spec URL`."""

    run_id: str
    """The run it belongs to."""
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    """Names the result: same fingerprint, same bytes."""
    upstream: dict[str, str]
    """Fingerprints of the stages it reads, by stage name."""
    seed: Seed
    """The run's seed."""
    dataset: DatasetRef
    """The dataset at the loop's start."""
    execution: ExecutionSpec
    """Where it runs."""


class ExportStage(StageSpecBase):
    """Stage spec of `export`."""

    stage: Literal["export"] = "export"
    options: ExportSpec
    eval_set: str
    """URL of the eval set that must not be trained on."""
    eval_prompts_sha256: str
    """Digest of that set's prompts, all that the export depends on."""
    tokenizer_sha256: str | None
    """Digest of the tokenizer that lengths are counted with."""
    system_instruction: str | None
    """Counted with every prompt where there is a tokenizer."""
    model_family: str
    """Whose turns are counted where there is a tokenizer."""


class TrainStage(StageSpecBase):
    """Stage spec of `train`."""

    stage: Literal["train"] = "train"
    options: TrainSpec
    system_instruction: str | None


class EvalStage(StageSpecBase):
    """Stage spec of `eval`."""

    stage: Literal["eval"] = "eval"
    options: EvalSpec
    eval_set_sha256: str
    """Digest of the eval set that was planned with."""
    system_instruction: str | None


class ImportStage(StageSpecBase):
    """Stage spec of `import`."""

    stage: Literal["import"] = "import"
    options: ImportSpec


StageSpec = Annotated[
    ExportStage | TrainStage | EvalStage | ImportStage, Field(discriminator="stage")
]


def dump_stage_spec(stage: StageSpec) -> bytes:
    """Serialize a stage spec as its process reads it, `--spec URL`."""
    return stage.model_dump_json(indent=1, by_alias=True).encode() + b"\n"
