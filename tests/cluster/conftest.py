"""Fixtures for tests against a real API server: one cluster per worker, one namespace per test.

A test must not leave anything outside its namespace that another test could see.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.controlplane import (
    Cluster,
    ControlPlaneUnavailable,
    open_cluster,
    wait_until,
)
from tests.cluster.node import Node

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/warn": "restricted",  # for a Job, PodSecurity only warns
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Open a cluster with full rights; if there is none, skip, or fail under CI."""
    # One per xdist worker, because a shared one would have to outlive the worker that started it.
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
    """Create a namespace that enforces PodSecurity `restricted` and is ready for pods."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    metadata = {"name": name, "labels": RESTRICTED}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    # Pods are rejected until the controller manager has created the default account.
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, check=True)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", check=True)


@pytest.fixture(scope="module")
def base(cluster: Cluster, repository: Path) -> Iterator[str]:
    """Apply manifests/k8s/cluster/overlays/bare as an operator does; yield its namespace."""
    if cluster.control_plane is None:
        pytest.skip("the cluster of TUNELOOP_TEST_KUBECONFIG may already have a tuneloop namespace")
    overlay = str(repository / "manifests" / "k8s" / "cluster" / "overlays" / "bare")
    done = cluster.kubectl("apply", "-k", overlay, "--validate=strict", check=True)
    assert done.stderr == "", "the server reports a warning"
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", "tuneloop", check=True)
    yield "tuneloop"
    cluster.kubectl("delete", "-k", overlay, "--wait=false", check=True)

    def is_gone() -> bool:
        # No kubelet is left to end pods that were bound to a node of a finished test.
        cluster.kubectl("delete", "pods", "--all", "-n", "tuneloop", "--force", "--wait=false")
        return cluster.kubectl("get", "namespace", "tuneloop").returncode != 0

    wait_until(is_gone, "the base is gone", 60)


@pytest.fixture
def make_node(cluster: Cluster, repository: Path) -> Iterator[Callable[..., Node]]:
    """Return a function that makes simulated nodes, which are removed after the test."""
    control_plane = cluster.control_plane
    if control_plane is None:
        pytest.skip("the cluster of TUNELOOP_TEST_KUBECONFIG has its own nodes")
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Node:
            name = f"node-{uuid.uuid4().hex[:8]}"
            passed = (
                "JAX_",
                "XLA_",
                "PYTHONPATH",
            )  # the folder of the tests, in case another checkout is installed
            env = {name: value for name, value in os.environ.items() if name.startswith(passed)}
            env |= options.pop("env", {})
            return stack.enter_context(
                Node(control_plane, name, checkout=repository, env=env, **options)
            )

        yield make


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    """Create one simulated CPU node."""
    return make_node()
