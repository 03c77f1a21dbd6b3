"""Fixtures of the tests against a real API server: a cluster per worker, a namespace per test.

Rule: a test leaves nothing outside its namespace that another test could see.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.controlplane import Cluster, ControlPlaneUnavailable, open_cluster

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/warn": "restricted",  # what is asked for a Job only warns
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with full rights; skips, or under CI fails, where there can be none."""
    # One per xdist worker: a shared one would have to outlive the worker that started it.
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(open_cluster())
        except ControlPlaneUnavailable as error:
            if os.environ.get("CI"):
                pytest.fail(f"CI always runs these tests: {error}")
            pytest.skip(str(error))
        yield found


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace that enforces PodSecurity `restricted` and is ready for pods."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    metadata = {"name": name, "labels": RESTRICTED}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    # Pods are refused until the controller manager has made the account.
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, check=True)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", check=True)
