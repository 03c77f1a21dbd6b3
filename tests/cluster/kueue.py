"""The Kueue API for tests: Kueue's own CRDs, from the Go module that kueue/go.mod pins.

The real API server serves them, so strict validation uses the real schemas. There is no controller,
so nothing is ever queued or admitted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.cluster.controlplane import (
    Cluster,
    ControlPlaneError,
    ControlPlaneUnavailable,
    wait_until,
)

MODULE = Path(__file__).with_suffix("")
"""The Go module that pins Kueue; only its files are used, and nothing is compiled."""
KINDS = ("clusterqueues", "localqueues", "resourceflavors", "workloadpriorityclasses", "workloads")


@contextlib.contextmanager
def serving_kueue(cluster: Cluster) -> Iterator[None]:
    """Serve the API while the block runs; other tests need a cluster without it."""
    _serve(cluster)
    try:
        yield
    finally:
        names = [f"{kind}.kueue.x-k8s.io" for kind in KINDS]
        cluster.kubectl("delete", "crd", *names, check=True)
        wait_until(
            lambda: "kueue" not in cluster.kubectl("api-versions", check=True).stdout,
            "the API is gone",
        )


def _serve(cluster: Cluster) -> None:
    """Apply the CRDs of queues and workloads and wait until they are served."""
    folder = _source() / "config" / "components" / "crd" / "bases"
    crds = [yaml.safe_load((folder / f"kueue.x-k8s.io_{kind}.yaml").read_text()) for kind in KINDS]
    # The group belongs to Kubernetes, which requires an annotation about the API's approval.
    # Kueue's own kustomization adds it, and also a conversion webhook, which the stored version
    # does not need.
    for crd in crds:
        crd["metadata"]["annotations"]["api-approved.kubernetes.io"] = "unapproved, a test's"
    cluster.apply(
        *crds, options=("--server-side",)
    )  # too large for the annotation of client-side apply
    for kind in KINDS:
        wait_until(
            lambda kind=kind: (
                cluster.kubectl("get", f"{kind}.kueue.x-k8s.io", "-A").returncode == 0
            ),
            f"{kind} are served",
        )


def _source() -> Path:
    """Download the module, check it against go.sum, and return its folder in Go's cache."""
    if shutil.which("go") is None:
        raise ControlPlaneUnavailable("no Go to fetch Kueue's CRDs with: install Go")
    done = subprocess.run(
        ["go", "mod", "download", "-json", "sigs.k8s.io/kueue"],
        cwd=MODULE,
        env={**os.environ, "GOFLAGS": "-mod=readonly", "GOWORK": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ControlPlaneError(f"Kueue's module cannot be had: {done.stderr}{done.stdout}")
    return Path(json.loads(done.stdout)["Dir"])
