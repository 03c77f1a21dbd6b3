"""The step of the quickstarts that sets up the base, run as it is written on a real API server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import RESTRICTED
from tests.cluster.controlplane import (
    Cluster,
    ControlPlane,
    ControlPlaneUnavailable,
    ensure_binaries,
)
from tests.docs.blocks import shell_blocks
from tests.docs.checkout import copy_checkout

PAGES = {
    "tutorial/kind.md": {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
    "tutorial/gke.md": {
        "PROJECT_ID": "my-project",
        "BUCKET": "my-bucket",
        "REGISTRY": "us-central1-docker.pkg.dev/my-project/tuneloop",
        "version": "0.1.0",
    },
}
"""Page -> what earlier steps have exported."""
NEEDS_NODES = ("kubectl rollout ", "kubectl port-forward ")
SECRETS = {
    "tuneloop-store-tokens": "tokens",
    "tuneloop-store-token": "token",
    "tuneloop-postgres": "password",
}


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A control plane of this test's own: what the pages make has a fixed name."""
    try:
        binaries = ensure_binaries()
    except ControlPlaneUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI always runs these tests: {error}")
        pytest.skip(str(error))
    with ControlPlane(binaries) as control_plane:
        yield control_plane.cluster


def test_the_base_is_set_up_as_written(own_cluster: Cluster, tmp_path: Path) -> None:
    for page, variables in PAGES.items():
        (block,) = (b for b in shell_blocks(page) if "kubectl apply -k" in b)
        lines = [line for line in block.splitlines() if not line.startswith(NEEDS_NODES)]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
            cwd=copy_checkout(tmp_path / page),
            env={
                **os.environ,
                **variables,
                "PATH": f"{own_cluster.kubectl_path.parent}:{os.environ['PATH']}",
                "KUBECONFIG": str(own_cluster.kubeconfig),
                "KUBECACHEDIR": str(tmp_path / "cache"),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{page}: {done.stdout}{done.stderr}"
        assert "Warning" not in done.stderr, page
        found = own_cluster.get("all,networkpolicies,roles", "-n", "tuneloop")["items"]
        kinds = {item["kind"] for item in found}
        assert {"Deployment", "StatefulSet", "Service", "NetworkPolicy", "Role"} <= kinds, page
        assert "CHANGE-ME" not in str(found), page
        for name, key in SECRETS.items():
            secret = own_cluster.get("secret", name, "-n", "tuneloop")
            assert secret["data"][key], (page, name)
        labels = own_cluster.get("namespace", "tuneloop")["metadata"]["labels"]
        assert labels.items() >= RESTRICTED.items(), page
        own_cluster.kubectl("delete", "namespace", "tuneloop", "--timeout=60s", check=True)
