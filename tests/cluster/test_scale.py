"""Test that the sizes in docs/appendix-scale.md are those of objects in a real etcd."""

from __future__ import annotations

import importlib

import pytest

from tests.builders import REPOSITORY
from tests.cluster import controlplane

TOLERANCE = 0.25


def test_objects_weigh_what_the_page_reckons_with(
    cluster: controlplane.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cluster.control_plane is None:
        pytest.skip("TUNELOOP_TEST_KUBECONFIG gave a cluster whose etcd cannot be asked")
    monkeypatch.syspath_prepend(str(REPOSITORY / "bench"))
    script = importlib.import_module("scale_etcd")
    weights = script.weigh(cluster, "weighed-by-test")
    for kind, (stored, sent) in script.MEASURED.items():
        assert weights[kind].stored == pytest.approx(stored, rel=TOLERANCE), kind
        assert weights[kind].sent == pytest.approx(sent, rel=TOLERANCE), kind
    cluster.kubectl("delete", "namespace", "weighed-by-test", "--wait=false", check=True)
