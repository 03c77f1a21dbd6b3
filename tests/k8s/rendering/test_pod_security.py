from __future__ import annotations

from typing import Any

from tests.k8s.rendering.test_render import MANIFESTS, pod_of, rendered, submitter
from tuneloop.k8s.accelerators.shapes import Accelerators
from tuneloop.k8s.checks.offline import check_documents
from tuneloop.specs.cluster import AcceleratorRequest, StagePlacement


def test_pods_of_an_accelerator_can_run_as_root() -> None:
    """The spec overrides the table, and the submitter is never root."""
    restricted = pod_of(rendered("train", StagePlacement(accelerator="v5e-1x1"))[1])
    root = StagePlacement(accelerator="v5e-1x1", pod_security="baseline")
    _, job = rendered("train", root)
    context = pod_of(job)["securityContext"]
    assert context == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod_of(job)["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod_of(job) == {**restricted, "securityContext": context}
    assert check_documents({"f.yaml": rendered("train", root)}) == []
    del job["spec"]["template"]["metadata"]["annotations"]["tuneloop.dev/pod-security"]
    said = [finding.place for finding in check_documents({"f.yaml": [job]})]
    assert any("securityContext.runAsUser" in place for place in said)

    v5e = MANIFESTS.accelerators.table.tpu.families["v5e"].model_copy(
        update={"pod_security": "baseline"}
    )
    tpu = MANIFESTS.accelerators.table.tpu
    families = {**tpu.families, "v5e": v5e}
    table = MANIFESTS.accelerators.table.model_copy(
        update={"tpu": tpu.model_copy(update={"families": families})}
    )
    accelerators = Accelerators(table, "mine.yaml")

    def security(**request: Any) -> str:
        return accelerators.shape(AcceleratorRequest(**request)).pod_security

    assert security(accelerator="v5e-4x4") == "baseline"
    assert security(accelerator="v6e-1x1") == security(accelerator="cpu") == "restricted"
    assert security(accelerator="v5e-1x1", pod_security="restricted") == "restricted"
    job = submitter(train={"accelerator": "v5e-1x1", "pod_security": "baseline"})[-1]
    assert pod_of(job)["securityContext"]["runAsNonRoot"] is True
