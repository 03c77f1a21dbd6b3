"""A supervisor that archives logs until it is killed: `python -m ... KUBECONFIG STAGE_PREFIX`."""

from __future__ import annotations

import sys
import time

from tests.k8s.logs.pods import JOB
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.k8s.logs import archiver
from tuneloop.k8s.logs.archiver import LogArchiver


def main(kubeconfig: str, stage_prefix: str) -> None:
    """Archive the logs of all pods of the namespace, about five times a second."""
    archiver.READ_SECONDS = 0.2
    cluster = Cluster.connect("n", kubeconfig=kubeconfig, retry_seconds=5)
    logs = LogArchiver(cluster, stage_prefix, JOB)
    while True:
        logs.archive(cluster.find("Pod"))
        time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
