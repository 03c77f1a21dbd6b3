"""Wall time to submit 200 runs; compared with the raw client creating the same objects."""

from __future__ import annotations

import copy
import time

from cluster import open_bench
from figure import print_figure, sized
from kubernetes import client, config

from tuneloop.artifacts.runs.submission import save_submission
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.runs.sequence import Sequence

RUNS = sized(200, 3)


def main() -> None:
    """Submit all runs, then create the same objects with only the client in another namespace."""
    with open_bench() as bench:
        ours_in, rival_in = bench.namespace("ours"), bench.namespace("rival")
        prepared = [bench.prepare(ours_in, number) for number in range(RUNS)]
        submissions = [each.backend.submission for each in prepared]
        kubeconfig = str(bench.cluster.kubeconfig)

        cluster = Cluster.connect(ours_in, kubeconfig=kubeconfig)
        since = time.perf_counter()
        for submission in submissions:
            save_submission(submission)
            Sequence(KubernetesBackend(submission, lambda: cluster)).submit()
        ours = time.perf_counter() - since

        config.load_kube_config(kubeconfig)
        core, batch = client.CoreV1Api(), client.BatchV1Api()
        documents = [copy.deepcopy(each.stages[0].documents) for each in submissions]
        since = time.perf_counter()
        for config_map, job in documents:
            config_map["metadata"]["namespace"] = job["metadata"]["namespace"] = rival_in
            core.create_namespaced_config_map(rival_in, config_map)
            batch.create_namespaced_job(rival_in, job)
        rival = time.perf_counter() - since
    print_figure("submit", "s", [(ours, rival)])


if __name__ == "__main__":
    main()
