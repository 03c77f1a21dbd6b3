"""Kueue's rules for quota and flavors, as in its flavorassigner.go, on the example queues."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.rendering.test_render import rendered
from tuneloop.k8s.checks.flight import needs_of, pods_of
from tuneloop.k8s.checks.queue_fit import why_unfit
from tuneloop.k8s.checks.queues import kueue_ready_seconds
from tuneloop.specs.cluster import StagePlacement

KUEUE = Path(__file__).parents[3] / "manifests" / "k8s" / "cluster" / "components" / "kueue"
FLAVORS = {
    each["metadata"]["name"]: each
    for each in yaml.safe_load_all((KUEUE / "flavors.yaml").read_text())
}
QUEUES = {
    each["metadata"]["name"]: each
    for each in yaml.safe_load_all((KUEUE / "queues.yaml").read_text())
    if each["kind"] == "ClusterQueue"
}


def reason(queue: dict[str, Any], stage: str, accelerator: str, **place: Any) -> str | None:
    workload = rendered(stage, StagePlacement(accelerator=accelerator, **place))[1]
    requests = {
        name.removeprefix("requests."): amount
        for name, amount in needs_of(workload).items()
        if name.startswith("requests.")
    }
    return why_unfit(requests, next(pods_of(workload))["spec"], queue, FLAVORS)


@pytest.mark.parametrize(
    ("queue", "stage", "accelerator", "expected"),
    [
        ("tuneloop-cpu", "export", "cpu", None),
        ("tuneloop-chips", "train", "v6e-1x1", None),
        ("tuneloop-chips", "train", "v6e-4x4", None),
        ("tuneloop-chips", "train", "l4-8", None),
        ("tuneloop-cpu", "train", "v6e-4x4", "covers no google.com/tpu, which the stage requests"),
        (
            "tuneloop-chips",
            "import",
            "cpu",
            "flavor tuneloop-tpu-v6e has the taint google.com/tpu, which the pods do not tolerate;"
            " flavor tuneloop-gpu-l4 has the taint nvidia.com/gpu, which the pods do not tolerate",
        ),
        (
            "tuneloop-chips",
            "train",
            "v5e-1x1",
            "flavor tuneloop-tpu-v6e has nodes with"
            " cloud.google.com/gke-tpu-accelerator=tpu-v6e-slice, but the pods select"
            " tpu-v5-lite-podslice; flavor tuneloop-gpu-l4 has the taint nvidia.com/gpu, which the"
            " pods do not tolerate",
        ),
    ],
)
def test_the_example_queues(queue: str, stage: str, accelerator: str, expected: str | None) -> None:
    assert reason(QUEUES[queue], stage, accelerator) == expected


def test_the_maximum_counts_all_pods_and_what_a_cohort_lends() -> None:
    def queue(most: str, **limit: str) -> dict[str, Any]:
        cohort = {"cohortName": "all"} if "cohort" in limit else {}
        lent = {"borrowingLimit": limit["lent"]} if "lent" in limit else {}
        covered = ["cpu", "memory", "ephemeral-storage"]
        resources = [{"name": name, "nominalQuota": "10Ti"} for name in covered]
        resources[0] = {"name": "cpu", "nominalQuota": most, **lent}
        flavors = [{"name": "tuneloop-cpu", "resources": resources}]
        group = {"coveredResources": covered, "flavors": flavors}
        return {"spec": {**cohort, "resourceGroups": [group]}}

    sixteen = {"cpu": "2", "shard_count": 16}
    assert reason(queue("32"), "export", "cpu", **sixteen) is None
    assert reason(queue("31500m"), "export", "cpu", **sixteen) == (
        "flavor tuneloop-cpu allows at most 31.5 of cpu, but the stage requests 32"
    )
    assert reason(queue("1", cohort="all"), "export", "cpu", **sixteen) is None
    lends = queue("1", cohort="all", lent="30")
    assert "at most 31 of cpu" in str(reason(lends, "export", "cpu", **sixteen))
    assert reason({"spec": {}}, "export", "cpu") == (
        "covers no cpu, ephemeral-storage, memory, which the stage requests"
    )
    assert "flavor gone does not exist" in str(
        why_unfit(
            {"cpu": Decimal(1)},
            {},
            {
                "spec": {
                    "resourceGroups": [
                        {
                            "coveredResources": ["cpu"],
                            "flavors": [{"name": "gone", "resources": []}],
                        }
                    ]
                }
            },
            {"gone": None},
        )
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("waitForPodsReady: {timeout: 30m}", 1800),
        ("waitForPodsReady: {timeout: 1h30m0s}", 5400),
        ("waitForPodsReady: {enable: false, timeout: 5m}", None),
        ("waitForPodsReady: {blockAdmission: true}", None),
        ("waitForPodsReady:", None),
        ("", None),
        ("- a list", None),
        ("{broken", None),
    ],
)
def test_kueues_configuration(text: str, seconds: float | None) -> None:
    data = {"controller_manager_config.yaml": text}
    assert kueue_ready_seconds({"data": data}) == seconds
    assert kueue_ready_seconds({}) is None
