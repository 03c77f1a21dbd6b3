"""Every script of bench/ that needs an API server runs with tiny sizes."""

from __future__ import annotations

import os

import pytest

from tests.bench.smoke import run_smoke
from tests.cluster.controlplane import ControlPlaneUnavailable, ensure_binaries

SCRIPTS = ("handover", "scale_etcd", "scale_gang", "submit")


@pytest.fixture(scope="module")
def control_plane() -> None:
    """Build the control plane's programs, which each script starts for itself."""
    if os.environ.get("TUNELOOP_TEST_KUBECONFIG"):
        pytest.skip("the scripts start control planes of their own")
    try:
        ensure_binaries()
    except ControlPlaneUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI always runs these tests: {error}")
        pytest.skip(str(error))


@pytest.mark.usefixtures("control_plane")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs(script: str) -> None:
    run_smoke(script)
