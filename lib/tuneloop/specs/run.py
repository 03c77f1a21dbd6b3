"""What people ask for: the run spec, and the stage specs that a plan makes of it.

One rule: a field either names the result (identity) or says where it is made (execution). Identity
enters the fingerprint; `execution` never does.
"""

from __future__ import annotations

from pydantic import Field

from tuneloop.specs.base import Seed, Spec
from tuneloop.specs.cluster import ClusterSpec
from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.export import ExportSpec
from tuneloop.specs.import_traces import ImportSpec
from tuneloop.specs.training import TrainSpec


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
