"""Shared parts of the cluster benchmarks: a real control plane, a namespace and prepared runs."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.builders import TinyRun, make_tiny_run  # noqa: E402 - needs the path above
from tests.cluster.controlplane import Cluster, open_cluster  # noqa: E402
from tuneloop.k8s.backend import KubernetesBackend  # noqa: E402
from tuneloop.runs.planning.prepare import Prepared, prepare  # noqa: E402
from tuneloop.runs.planning.spec_file import load_run_spec  # noqa: E402
from tuneloop.specs.target import Target  # noqa: E402

IMAGE = "registry.example/tuneloop@sha256:" + "0" * 64
SMALL = {"cpu": "1", "memory": "1Gi", "ephemeral_storage": "1Gi"}


@dataclass
class Bench:
    """A cluster, and a small run to place on it."""

    cluster: Cluster
    run: TinyRun

    def namespace(self, name: str) -> str:
        """Create a namespace with the ServiceAccount of the stages."""
        self.cluster.kubectl("create", "namespace", name, check=True)
        self.cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", name, check=True)
        return name

    def prepare(self, namespace: str, number: int, **execution: Any) -> Prepared[KubernetesBackend]:
        """Plan a run for a namespace; each number gives a different run."""
        stages = dict.fromkeys(("export", "train", "eval", "import"), SMALL)
        place = {"namespace": namespace, **stages}
        changes = {f"execution__{name}": value for name, value in execution.items()}
        self.run.change(name=f"run-{number}", execution__cluster=place, **changes)
        spec = load_run_spec(str(self.run.spec_path))
        return prepare(KubernetesBackend, spec, Target(image=IMAGE), seed=number)


@contextlib.contextmanager
def open_bench() -> Iterator[Bench]:
    """Start the control plane."""
    with tempfile.TemporaryDirectory() as folder, open_cluster() as cluster:
        yield Bench(cluster, make_tiny_run(Path(folder)))
