"""Seconds from a record to the creation of the next Job; compared with the poll interval."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import REPOSITORY, open_bench
from figure import print_figure, sized

from tests.cluster.node import Node
from tuneloop.artifacts import layout
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.runs import store_app
from tuneloop.runs.sequence import Sequence
from tuneloop.stages.pipelines import TRAINING_STAGES

POLL_SECONDS = 0.5
ROUNDS = sized(3, 1)


class Timed(Cluster):
    """A backend that records when each stage is created."""

    created: dict[str, float]

    def create(self, document: Any, *, dry_run: bool = False) -> Any:
        """Create the stage's objects and record the time."""
        done = super().create(document, dry_run=dry_run)
        self.created[document["metadata"]["labels"]["tuneloop.dev/stage"]] = time.time()
        return done


def _giving(cluster: Cluster) -> Callable[[], Cluster]:
    return lambda: cluster


def main() -> None:
    """Run the small run a few times; each run has three transitions between stages."""
    waits = []
    cache = {"JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / ".pytest_cache" / "jax")}
    cache |= {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    with open_bench() as bench:
        control_plane = bench.cluster.control_plane
        assert control_plane is not None, "needs a control plane of its own"
        namespace = bench.namespace("handover")
        database = f"sqlite:///{bench.run.folder / 'store.db'}"
        with (
            store_app.running(database, bench.run.artifacts) as store,
            Node(control_plane, "node", checkout=REPOSITORY, env=cache),
        ):
            for number in range(ROUNDS):
                prepared = bench.prepare(namespace, number, store_url=store)
                cluster = Timed.connect(namespace, kubeconfig=str(bench.cluster.kubeconfig))
                assert isinstance(cluster, Timed)
                cluster.created = {}
                backend = KubernetesBackend(
                    prepared.backend.submission,
                    _giving(cluster),
                    poll_seconds=POLL_SECONDS,
                )
                Sequence(backend).run(retry_failed=True, stop_on_interrupt=True)
                for before, after in itertools.pairwise(TRAINING_STAGES):
                    if after not in cluster.created or before not in cluster.created:
                        continue  # an earlier round has created the same export
                    url = layout.record_url(prepared.plan.artifacts, prepared.plan.run_id, before)
                    waits.append(cluster.created[after] - Path(url).stat().st_mtime)
    print_figure("handover", "s", [(wait, POLL_SECONDS) for wait in waits])


if __name__ == "__main__":
    main()
