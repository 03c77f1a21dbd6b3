"""The run spec: one pass of the loop, as users write it in YAML.

A field either determines the result (identity) or the place where it is computed (`execution`).
Only identity enters the fingerprint.
"""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from tuneloop.specs.base import Seed, Spec
from tuneloop.specs.cluster import ClusterSpec
from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.export import ExportSpec
from tuneloop.specs.import_traces import ImportSpec
from tuneloop.specs.integrations.metrics_sink import MetricsSinkSpec
from tuneloop.specs.integrations.notifications import WebhookSpec
from tuneloop.specs.training.model import PretrainedModelSpec
from tuneloop.specs.training.profiler import ProfilerSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.storage import paths


class ExecutionSpec(Spec):
    """Execution settings of a run: storage, checkpoints and cluster; never part of its identity."""

    artifacts: str = ".tuneloop/artifacts"
    """URL of the prefix that holds `datasets/`, `training_runs/`, `tokens/` and `stages/`."""
    datasets_url: str | None = None
    """URL from which the dataset is read: a prefix that holds `datasets/`, or a trace store (http
    or https), which streams it; null means `artifacts`."""
    store_url: str = "http://127.0.0.1:8000"
    """URL of the trace store that receives the eval traces."""
    checkpoint_every_steps: int = Field(default=100, ge=1)
    """Training steps between checkpoints; a higher value writes fewer checkpoints and repeats more
    steps after a restart."""
    profiler: ProfilerSpec | None = None
    """Training steps that the JAX profiler traces, into `train/profile/` of the run; null traces
    none."""
    notifications: tuple[WebhookSpec, ...] = ()
    """Webhooks that are told when stages and the run end."""
    metrics_sink: MetricsSinkSpec | None = None
    """Tracking server that receives the metrics of training and evaluation; null sends none."""
    prices: str | None = None
    """Path or URL of a YAML file with prices of accelerators, for the costs that `plan`, `run`,
    `wait`, `report` and `runs` show; null shows chip-hours alone."""
    cluster: ClusterSpec | None = None
    """Kubernetes settings; null allows runs on this machine only."""

    @field_validator("artifacts")
    @classmethod
    def _can_be_published_to(cls, artifacts: str) -> str:
        if (protocol := paths.read_only_protocol(artifacts)) is not None:
            raise ValueError(
                "expected a local folder, gs:// or s3://, because artifacts cannot be published"
                f" over {protocol}"
            )
        return artifacts

    @model_validator(mode="after")
    def _has_one_url_per_variable(self) -> ExecutionSpec:
        sources = [each.url_from for each in self.notifications if each.url_from is not None]
        if len({source.env for source in sources}) < len(set(sources)):
            raise ValueError(
                "notifications: one environment variable has two Secrets or keys, expected one;"
                " give each url_from its own env"
            )
        return self

    @property
    def datasets(self) -> str:
        """URL of the prefix or trace store that holds the datasets."""
        return self.datasets_url or self.artifacts


class RunSpec(Spec):
    """A run: one pass of the loop."""

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$")
    """First part of the run id: lower-case letters, digits and dashes, starting with a letter."""
    dataset: str = Field(min_length=1, max_length=200)
    """Key of a built dataset, its folder under `<artifacts>/datasets/`."""
    seed: Seed | None = None
    """Seed of initial weights, batch order and generation; null uses the dataset's seed."""
    system_instruction: str | None = None
    """Text placed before every user message, in training and evaluation (Gemma 3 has no system
    role); null adds nothing."""
    export: ExportSpec = ExportSpec()
    """Options of the export stage."""
    train: TrainSpec
    """Options of the train stage."""
    eval: EvalSpec
    """Options of the eval stage."""
    import_: ImportSpec = Field(default=ImportSpec(), alias="import")
    """Options of the import stage."""
    execution: ExecutionSpec = ExecutionSpec()
    """Execution settings: storage, checkpoints and cluster; never part of the fingerprint."""

    @property
    def starts_pretrained(self) -> bool:
        """Whether training starts from stored weights, which bring their own tokenizer."""
        return isinstance(self.train.model, PretrainedModelSpec)

    @model_validator(mode="after")
    def _has_validation_examples(self) -> RunSpec:
        if self.train.validation is not None and not self.export.validation_fraction:
            raise ValueError(
                "train.validation needs validation examples, but export.validation_fraction is 0;"
                " set it to a share such as 0.05, or remove train.validation"
            )
        return self

    @model_validator(mode="after")
    def _one_process_stops_early(self) -> RunSpec:
        cluster = self.execution.cluster
        if self.eval.stop_early and cluster is not None and cluster.eval.shard_count > 1:
            raise ValueError(
                f"execution.cluster.eval.shard_count is {cluster.eval.shard_count}, expected 1 with"
                " eval.stop_early, because processes that share the questions do not see one"
                " another's answers; set one of them"
            )
        return self

    @model_validator(mode="after")
    def _evaluated_steps_are_kept(self) -> RunSpec:
        kept, asked = self.train.keep_checkpoints, self.eval.checkpoints
        missing = not kept if asked == "all" else bool(set(asked) - set(kept))
        if asked and missing:
            raise ValueError(
                f"eval.checkpoints is {asked if asked == 'all' else list(asked)}, expected steps of"
                f" train.keep_checkpoints ({list(kept)}); add them there"
            )
        return self

    @model_validator(mode="after")
    def _profiled_steps_exist(self) -> RunSpec:
        profiler, steps = self.execution.profiler, self.train.steps
        if profiler is not None and steps is not None and profiler.last_step > steps:
            raise ValueError(
                f"execution.profiler.last_step is {profiler.last_step}, expected at most"
                f" train.steps ({steps})"
            )
        return self

    @model_validator(mode="after")
    def _model_and_export_agree(self) -> RunSpec:
        export, limit = self.export, self.train.max_length_tokens
        tokens = export.max_length_tokens
        if self.starts_pretrained:
            if export.tokenizer is not None:
                raise ValueError(
                    f"export.tokenizer is {export.tokenizer}, expected none, because a pretrained"
                    " model counts with its own tokenizer; remove it"
                )
            if tokens is not None and tokens > limit:
                raise ValueError(
                    f"export.max_length_tokens is {tokens}, expected at most"
                    f" train.max_length_tokens ({limit}), over which training refuses an example"
                )
            return self
        if self.train.thinking != "plain":
            raise ValueError(
                f"train.thinking is {self.train.thinking}, expected plain, because a model with"
                " random weights has no thinking block"
            )
        if tokens is not None and export.tokenizer is None:
            raise ValueError(
                f"export.max_length_tokens is {tokens}, expected export.tokenizer to count with,"
                " because the tokenizer of random weights is trained after the export"
            )
        if export.over_length != "fail" and export.max_length_characters is None and tokens is None:
            raise ValueError(
                f"export.over_length is {export.over_length}, expected"
                " export.max_length_characters or export.max_length_tokens with it"
            )
        return self
