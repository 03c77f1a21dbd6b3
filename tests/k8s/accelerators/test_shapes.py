"""Compare every shape of the shipped table with numbers that were written by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.builders import REPOSITORY
from tuneloop.errors import SpecError
from tuneloop.k8s.accelerators.shapes import Accelerators, Shape, load_accelerators
from tuneloop.specs.cluster import AcceleratorRequest

PLACE = "manifests/k8s/accelerators.yaml"
TEXT = (REPOSITORY / PLACE).read_text()
TABLE = load_accelerators(TEXT.encode(), PLACE)

V5E, V6E = "tpu-v5-lite-podslice", "tpu-v6e-slice"
# key: (accelerator label, topology, machine, hosts, chips per host, chips, GB per chip)
TPUS = {
    "v4-2x2x1": ("tpu-v4-podslice", "2x2x1", "ct4p-hightpu-4t", 1, 4, 4, 32),
    "v4-2x2x2": ("tpu-v4-podslice", "2x2x2", "ct4p-hightpu-4t", 2, 4, 8, 32),
    "v4-2x2x4": ("tpu-v4-podslice", "2x2x4", "ct4p-hightpu-4t", 4, 4, 16, 32),
    "v4-2x4x4": ("tpu-v4-podslice", "2x4x4", "ct4p-hightpu-4t", 8, 4, 32, 32),
    "v4-4x4x4": ("tpu-v4-podslice", "4x4x4", "ct4p-hightpu-4t", 16, 4, 64, 32),
    "v4-4x4x8": ("tpu-v4-podslice", "4x4x8", "ct4p-hightpu-4t", 32, 4, 128, 32),
    "v4-4x8x8": ("tpu-v4-podslice", "4x8x8", "ct4p-hightpu-4t", 64, 4, 256, 32),
    "v4-8x8x8": ("tpu-v4-podslice", "8x8x8", "ct4p-hightpu-4t", 128, 4, 512, 32),
    "v4-8x8x16": ("tpu-v4-podslice", "8x8x16", "ct4p-hightpu-4t", 256, 4, 1024, 32),
    "v4-8x16x16": ("tpu-v4-podslice", "8x16x16", "ct4p-hightpu-4t", 512, 4, 2048, 32),
    "v5e-1x1": (V5E, "1x1", "ct5lp-hightpu-1t", 1, 1, 1, 16),
    "v5e-2x2": (V5E, "2x2", "ct5lp-hightpu-4t", 1, 4, 4, 16),
    "v5e-2x4-8t": (V5E, "2x4", "ct5lp-hightpu-8t", 1, 8, 8, 16),
    "v5e-2x4-4t": (V5E, "2x4", "ct5lp-hightpu-4t", 2, 4, 8, 16),
    "v5e-4x4": (V5E, "4x4", "ct5lp-hightpu-4t", 4, 4, 16, 16),
    "v5e-4x8": (V5E, "4x8", "ct5lp-hightpu-4t", 8, 4, 32, 16),
    "v5e-8x8": (V5E, "8x8", "ct5lp-hightpu-4t", 16, 4, 64, 16),
    "v5e-8x16": (V5E, "8x16", "ct5lp-hightpu-4t", 32, 4, 128, 16),
    "v5e-16x16": (V5E, "16x16", "ct5lp-hightpu-4t", 64, 4, 256, 16),
    "v5e-device-1x1": ("tpu-v5-lite-device", "1x1", "ct5l-hightpu-1t", 1, 1, 1, 16),
    "v5e-device-2x2": ("tpu-v5-lite-device", "2x2", "ct5l-hightpu-4t", 1, 4, 4, 16),
    "v5e-device-2x4": ("tpu-v5-lite-device", "2x4", "ct5l-hightpu-8t", 1, 8, 8, 16),
    "v5p-2x2x1": ("tpu-v5p-slice", "2x2x1", "ct5p-hightpu-4t", 1, 4, 4, 95),
    "v5p-2x2x2": ("tpu-v5p-slice", "2x2x2", "ct5p-hightpu-4t", 2, 4, 8, 95),
    "v5p-2x2x4": ("tpu-v5p-slice", "2x2x4", "ct5p-hightpu-4t", 4, 4, 16, 95),
    "v5p-2x4x4": ("tpu-v5p-slice", "2x4x4", "ct5p-hightpu-4t", 8, 4, 32, 95),
    "v5p-4x4x4": ("tpu-v5p-slice", "4x4x4", "ct5p-hightpu-4t", 16, 4, 64, 95),
    "v5p-4x4x8": ("tpu-v5p-slice", "4x4x8", "ct5p-hightpu-4t", 32, 4, 128, 95),
    "v5p-4x8x8": ("tpu-v5p-slice", "4x8x8", "ct5p-hightpu-4t", 64, 4, 256, 95),
    "v5p-8x8x8": ("tpu-v5p-slice", "8x8x8", "ct5p-hightpu-4t", 128, 4, 512, 95),
    "v5p-8x8x16": ("tpu-v5p-slice", "8x8x16", "ct5p-hightpu-4t", 256, 4, 1024, 95),
    "v5p-8x16x16": ("tpu-v5p-slice", "8x16x16", "ct5p-hightpu-4t", 512, 4, 2048, 95),
    "v5p-16x16x24": ("tpu-v5p-slice", "16x16x24", "ct5p-hightpu-4t", 1536, 4, 6144, 95),
    "v6e-1x1": (V6E, "1x1", "ct6e-standard-1t", 1, 1, 1, 32),
    "v6e-2x2": (V6E, "2x2", "ct6e-standard-4t", 1, 4, 4, 32),
    "v6e-2x4-8t": (V6E, "2x4", "ct6e-standard-8t", 1, 8, 8, 32),
    "v6e-2x4-4t": (V6E, "2x4", "ct6e-standard-4t", 2, 4, 8, 32),
    "v6e-4x4": (V6E, "4x4", "ct6e-standard-4t", 4, 4, 16, 32),
    "v6e-4x8": (V6E, "4x8", "ct6e-standard-4t", 8, 4, 32, 32),
    "v6e-8x8": (V6E, "8x8", "ct6e-standard-4t", 16, 4, 64, 32),
    "v6e-8x16": (V6E, "8x16", "ct6e-standard-4t", 32, 4, 128, 32),
    "v6e-16x16": (V6E, "16x16", "ct6e-standard-4t", 64, 4, 256, 32),
    "tpu7x-1x1x1": ("tpu7x", "1x1x1", "tpu7x-standard-1t", 1, 1, 1, 192),
    "tpu7x-2x2x1": ("tpu7x", "2x2x1", "tpu7x-standard-4t", 1, 4, 4, 192),
    "tpu7x-2x2x2": ("tpu7x", "2x2x2", "tpu7x-standard-4t", 2, 4, 8, 192),
    "tpu7x-2x2x4": ("tpu7x", "2x2x4", "tpu7x-standard-4t", 4, 4, 16, 192),
    "tpu7x-2x4x4": ("tpu7x", "2x4x4", "tpu7x-standard-4t", 8, 4, 32, 192),
    "tpu7x-4x4x4": ("tpu7x", "4x4x4", "tpu7x-standard-4t", 16, 4, 64, 192),
    "tpu7x-4x4x8": ("tpu7x", "4x4x8", "tpu7x-standard-4t", 32, 4, 128, 192),
    "tpu7x-4x8x8": ("tpu7x", "4x8x8", "tpu7x-standard-4t", 64, 4, 256, 192),
    "tpu7x-8x8x8": ("tpu7x", "8x8x8", "tpu7x-standard-4t", 128, 4, 512, 192),
    "tpu7x-8x8x16": ("tpu7x", "8x8x16", "tpu7x-standard-4t", 256, 4, 1024, 192),
    "tpu7x-8x16x16": ("tpu7x", "8x16x16", "tpu7x-standard-4t", 512, 4, 2048, 192),
}
# These shapes are not listed in the table; its rule for slices above one cube allows them.
LARGER = {
    "v4-12x16x16": ("tpu-v4-podslice", "12x16x16", "ct4p-hightpu-4t", 768, 4, 3072, 32),
    "v5p-4x4x12": ("tpu-v5p-slice", "4x4x12", "ct5p-hightpu-4t", 48, 4, 192, 95),
    "tpu7x-4x12x16": ("tpu7x", "4x12x16", "tpu7x-standard-4t", 192, 4, 768, 192),
    "tpu7x-16x24x24": ("tpu7x", "16x24x24", "tpu7x-standard-4t", 2304, 4, 9216, 192),
}
# key: (accelerator label, machine, nodes, GPUs per node)
H100, A100, A100_80 = "nvidia-h100-80gb", "nvidia-tesla-a100", "nvidia-a100-80gb"
GPUS = {
    "l4-1": ("nvidia-l4", "g2-standard-12", 1, 1),
    "l4-2": ("nvidia-l4", "g2-standard-24", 1, 2),
    "l4-4": ("nvidia-l4", "g2-standard-48", 1, 4),
    "l4-8": ("nvidia-l4", "g2-standard-96", 1, 8),
    "a100-40gb-1": (A100, "a2-highgpu-1g", 1, 1),
    "a100-40gb-2": (A100, "a2-highgpu-2g", 1, 2),
    "a100-40gb-4": (A100, "a2-highgpu-4g", 1, 4),
    "a100-40gb-8": (A100, "a2-highgpu-8g", 1, 8),
    "a100-40gb-8x2": (A100, "a2-highgpu-8g", 2, 8),
    "a100-40gb-8x64": (A100, "a2-highgpu-8g", 64, 8),
    "a100-40gb-16": (A100, "a2-megagpu-16g", 1, 16),
    "a100-40gb-16x2": (A100, "a2-megagpu-16g", 2, 16),
    "a100-40gb-16x64": (A100, "a2-megagpu-16g", 64, 16),
    "a100-80gb-1": (A100_80, "a2-ultragpu-1g", 1, 1),
    "a100-80gb-2": (A100_80, "a2-ultragpu-2g", 1, 2),
    "a100-80gb-4": (A100_80, "a2-ultragpu-4g", 1, 4),
    "a100-80gb-8": (A100_80, "a2-ultragpu-8g", 1, 8),
    "a100-80gb-8x2": (A100_80, "a2-ultragpu-8g", 2, 8),
    "a100-80gb-8x64": (A100_80, "a2-ultragpu-8g", 64, 8),
    "h100-80gb-1": (H100, "a3-highgpu-1g", 1, 1),
    "h100-80gb-2": (H100, "a3-highgpu-2g", 1, 2),
    "h100-80gb-4": (H100, "a3-highgpu-4g", 1, 4),
    "h100-80gb-8": (H100, "a3-highgpu-8g", 1, 8),
    "h100-80gb-8x2": (H100, "a3-highgpu-8g", 2, 8),
    "h100-80gb-8x64": (H100, "a3-highgpu-8g", 64, 8),
    "h100-mega-80gb-8": ("nvidia-h100-mega-80gb", "a3-megagpu-8g", 1, 8),
    "h100-mega-80gb-8x2": ("nvidia-h100-mega-80gb", "a3-megagpu-8g", 2, 8),
    "h100-mega-80gb-8x64": ("nvidia-h100-mega-80gb", "a3-megagpu-8g", 64, 8),
    "h200-141gb-8": ("nvidia-h200-141gb", "a3-ultragpu-8g", 1, 8),
    "h200-141gb-8x2": ("nvidia-h200-141gb", "a3-ultragpu-8g", 2, 8),
    "h200-141gb-8x64": ("nvidia-h200-141gb", "a3-ultragpu-8g", 64, 8),
    "b200-8": ("nvidia-b200", "a4-highgpu-8g", 1, 8),
    "b200-8x2": ("nvidia-b200", "a4-highgpu-8g", 2, 8),
    "b200-8x64": ("nvidia-b200", "a4-highgpu-8g", 64, 8),
    "gb200-4": ("nvidia-gb200", "a4x-highgpu-4g", 1, 4),
    "gb200-4x2": ("nvidia-gb200", "a4x-highgpu-4g", 2, 4),
    "gb200-4x18": ("nvidia-gb200", "a4x-highgpu-4g", 18, 4),
    "rtx-pro-6000-1": ("nvidia-rtx-pro-6000", "g4-standard-48", 1, 1),
    "rtx-pro-6000-2": ("nvidia-rtx-pro-6000", "g4-standard-96", 1, 2),
    "rtx-pro-6000-4": ("nvidia-rtx-pro-6000", "g4-standard-192", 1, 4),
    "rtx-pro-6000-8": ("nvidia-rtx-pro-6000", "g4-standard-384", 1, 8),
}
GPU_GANGS = {"h100-80gb-8x4": (H100, "a3-highgpu-8g", 4, 8)}  # between the two sizes listed

SAFE = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
EXCLUSIVE = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
TPU_TAINT = {
    "key": "google.com/tpu",
    "operator": "Equal",
    "value": "present",
    "effect": "NoSchedule",
}
GPU_TAINT = {**TPU_TAINT, "key": "nvidia.com/gpu"}
ARM_TAINT = {**TPU_TAINT, "key": "kubernetes.io/arch", "value": "arm64"}


def shape(accelerator: str, table: Accelerators = TABLE, **options: Any) -> Shape:
    request = AcceleratorRequest.model_validate({"accelerator": accelerator, **options})
    return table.shape(request)


def refusal(accelerator: str, table: Accelerators = TABLE, **options: Any) -> str:
    with pytest.raises(SpecError) as caught:
        shape(accelerator, table, **options)
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".")
    return message


def edited(old: str, new: str) -> Accelerators:
    assert TEXT.count(old) >= 1
    return load_accelerators(TEXT.replace(old, new, 1).encode(), "own.yaml")


def test_the_table_lists_exactly_these_shapes() -> None:
    assert sorted(TABLE.keys()) == sorted(["cpu", *TPUS, *GPUS])


@pytest.mark.parametrize("key", [*TPUS, *LARGER])
def test_tpu(key: str) -> None:
    label, topology, machine, hosts, per_host, chips, gb = (TPUS | LARGER)[key]
    found = shape(key)
    selector = {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    if key in ("v5e-2x4-4t", "v6e-2x4-4t"):
        selector["cloud.google.com/gke-accelerator-count"] = "4"
    assert (found.key, found.kind, found.topology, found.machine) == (key, "tpu", topology, machine)
    assert (found.hosts, found.chips_per_host, found.chips) == (hosts, per_host, chips)
    assert found.devices_per_host == (per_host * 2 if key.startswith("tpu7x") else per_host)
    assert found.hbm_gb_per_chip == gb
    assert found.is_multi_host == (hosts > 1)
    assert found.node_selector == selector
    assert found.tolerations == [TPU_TAINT]
    assert found.resources == {"google.com/tpu": str(per_host)}
    assert found.env == {"JAX_PLATFORMS": "tpu,cpu"}
    assert found.dev_shm_size is None
    assert found.termination_grace_period_seconds == 120
    assert found.pod_annotations == SAFE
    assert found.jobset_annotations == (EXCLUSIVE if hosts > 1 else {})
    assert (found.slices, found.arch) == (1, "amd64")


@pytest.mark.parametrize("key", [*GPUS, *GPU_GANGS])
def test_gpu(key: str) -> None:
    label, machine, nodes, gpus = (GPUS | GPU_GANGS)[key]
    is_arm = key.startswith("gb200")
    found = shape(key)
    selector = {"cloud.google.com/gke-accelerator": label}
    assert (found.key, found.kind, found.topology, found.machine) == (key, "gpu", None, machine)
    assert (found.hosts, found.chips_per_host, found.chips) == (nodes, gpus, nodes * gpus)
    assert found.devices_per_host == gpus
    assert found.is_multi_host == (nodes > 1)
    assert found.node_selector == selector | ({"kubernetes.io/arch": "arm64"} if is_arm else {})
    assert found.tolerations == [GPU_TAINT, *([ARM_TAINT] if is_arm else [])]
    assert found.arch == ("arm64" if is_arm else "amd64")
    assert found.resources == {"nvidia.com/gpu": str(gpus)}
    assert found.env == {
        "JAX_PLATFORMS": "cuda,cpu",
        "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
    }
    assert found.dev_shm_size == "16Gi"
    assert found.termination_grace_period_seconds == 120
    assert found.pod_annotations == SAFE
    assert found.jobset_annotations == {}


@pytest.mark.parametrize(
    ("old", "new", "gib"),
    [
        ("", "", 0.92 * 79.1),
        ('XLA_PYTHON_CLIENT_MEM_FRACTION: "0.92"', 'X: "1"', 0.75 * 79.1),  # JAX's default
        ("cuda_gib_per_chip: 79.1", "usable_gib_per_device: 70", 70),
    ],
)
def test_the_limit_of_a_step_is_what_jax_takes_of_a_gpu(old: str, new: str, gib: float) -> None:
    start, family, rest = TEXT.partition("    h100-80gb:")
    if "cuda" in old:
        rest = rest.replace(old, new, 1)
    else:
        start = start.replace(old, new, 1)
    table = load_accelerators(f"{start}{family}{rest}".encode(), "own.yaml")
    devices = table.devices(AcceleratorRequest(accelerator="h100-80gb-1"))
    assert devices is not None
    assert devices.chip.limit_bytes == int(gib * 2**30)


def test_cpu() -> None:
    found = shape("cpu")
    assert (found.kind, found.hosts, found.slices, found.is_multi_host) == ("cpu", 1, 1, False)
    assert (found.chips_per_host, found.chips, found.devices_per_host) == (0, 0, 1)
    assert (found.node_selector, found.tolerations, found.resources) == ({}, [], {})
    assert found.env == {}
    assert (found.dev_shm_size, found.machine, found.hbm_gb_per_chip) == (None, None, None)
    assert found.device_peak_tflops is None
    assert found.pod_annotations == SAFE
    assert AcceleratorRequest().accelerator == "cpu"


@given(st.sampled_from(sorted(TPUS)))
def test_hosts_times_chips_per_host_is_the_topology(key: str) -> None:
    found = shape(key)
    product = 1
    for side in key.split("-")[2 if "device" in key else 1].split("x"):
        product *= int(side)
    assert found.hosts * found.chips_per_host == product


@pytest.mark.parametrize(
    ("accelerator", "options", "expected"),
    [
        ("v5e-4x4", {}, ["v5e-4x8", "v5e-8x8", "v5e-8x16", "v5e-16x16"]),
        ("v6e-1x1", {"slices": 1}, ["v6e-2x2", "v6e-2x4-8t", "v6e-2x4-4t", "v6e-4x4"]),
        ("v5e-4x8", {"slices": 4}, ["v5e-8x8", "v5e-8x16", "v5e-16x16"]),
        ("gb200-4x2", {}, ["gb200-4x4", "gb200-4x8", "gb200-4x16", "gb200-4x18"]),
        ("l4-4", {}, ["l4-8"]),
        ("v5e-16x16", {}, []),
        ("cpu", {}, []),
    ],
)
def test_shapes_with_more_of_the_same_chips(
    accelerator: str, options: dict[str, Any], expected: list[str]
) -> None:
    found = TABLE.larger_devices(AcceleratorRequest(accelerator=accelerator, **options))
    assert [each.name for each in found][: len(expected) or None] == expected
    assert {each.slices for each in found} <= {options.get("slices", 1)}


@settings(max_examples=300)
@given(st.lists(st.integers(1, 30), min_size=3, max_size=3))
def test_larger_topologies_follow_the_rule(sides: list[int]) -> None:
    a, b, c = sides
    key = f"v5p-{a}x{b}x{c}"
    small = {"2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"}
    cubes = all(side in range(4, 25, 4) for side in sides) and a <= b <= c and a <= 16 and b <= 16
    if cubes or f"{a}x{b}x{c}" in small:
        assert shape(key).hosts * 4 == a * b * c
    else:
        assert "multiples of 4" in refusal(key)


def test_multislice() -> None:
    found = shape("v6e-2x4-4t", slices=3)
    assert (found.hosts, found.slices, found.chips, found.is_multi_host) == (2, 3, 24, True)
    assert found.jobset_annotations == EXCLUSIVE
    assert shape("v5p-4x4x4", slices=256).chips == 256 * 64


def test_spot() -> None:
    found = shape("v5e-2x2", spot=True)
    assert found.node_selector["cloud.google.com/gke-spot"] == "true"
    spot = {**TPU_TAINT, "key": "cloud.google.com/gke-spot", "value": "true"}
    assert found.tolerations == [TPU_TAINT, spot]
    assert found.termination_grace_period_seconds == 25
    assert shape("cpu", spot=True).tolerations == [spot]


def test_flex_start() -> None:
    found = shape("h100-80gb-8", flex_start=True)
    assert found.node_selector["cloud.google.com/gke-flex-start"] == "true"
    assert found.tolerations[1]["key"] == "cloud.google.com/gke-flex-start"
    assert found.termination_grace_period_seconds == 120


def test_reservation_compute_class_and_placement_policy() -> None:
    found = shape(
        "tpu7x-2x2x2", reservation="mine", compute_class="chips", placement_policy="ironwood-2x2x2"
    )
    assert found.node_selector == {
        "cloud.google.com/gke-tpu-topology": "2x2x2",
        "cloud.google.com/gke-tpu-accelerator": "tpu7x",
        "cloud.google.com/reservation-name": "mine",
        "cloud.google.com/reservation-affinity": "specific",
        "cloud.google.com/compute-class": "chips",
        "cloud.google.com/placement-policy-name": "ironwood-2x2x2",
    }
    taint = {**TPU_TAINT, "key": "cloud.google.com/compute-class", "value": "chips"}
    assert found.tolerations == [TPU_TAINT, taint]


@pytest.mark.parametrize("level", ["required", "preferred"])
def test_kueue_topology_replaces_exclusive_topology(level: str) -> None:
    block = "cloud.google.com/gce-topology-block"
    wish = {f"kueue.x-k8s.io/podset-{level}-topology": block}
    found = shape("v5p-2x2x4", slices=2, topology_level=level, topology_key=block)
    assert found.jobset_annotations == {}
    assert found.pod_annotations == {
        **SAFE,
        "kueue.x-k8s.io/podset-slice-required-topology": "cloud.google.com/gke-nodepool",
        "kueue.x-k8s.io/podset-slice-size": "4",
        **wish,
    }
    gpus = shape("h100-80gb-8x4", topology_level=level, topology_key=block)
    assert gpus.pod_annotations == {**SAFE, **wish}


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    (
        "v9-2x2",
        {},
        "accelerator 'v9-2x2' is of an unknown family, expected a shape such as cpu, v4-2x2x1, "
        "v5e-1x1, v5e-device-1x1, v5p-2x2x1, v6e-1x1, tpu7x-1x1x1, l4-1, a100-40gb-1, a100-80gb-1, "
        "h100-80gb-1, h100-mega-80gb-8, h200-141gb-8, b200-8, gb200-4, rtx-pro-6000-1; "
        "choose one or add a row to manifests/k8s/accelerators.yaml",
    ),
    (
        "v5e-2x4",
        {},
        "accelerator 'v5e-2x4' is ambiguous, expected v5e-2x4-8t (1 host of 8 chips) or "
        "v5e-2x4-4t (2 hosts of 4 chips); name one",
    ),
    (
        "v6e-2x4",
        {},
        "accelerator 'v6e-2x4' is ambiguous, expected v6e-2x4-8t (1 host of 8 chips) or "
        "v6e-2x4-4t (2 hosts of 4 chips); name one",
    ),
    (
        "v5e-3x3",
        {},
        "accelerator 'v5e-3x3' is not offered, expected v5e-1x1, v5e-2x2, v5e-4x4, v5e-4x8, "
        "v5e-8x8, v5e-8x16, v5e-16x16, v5e-2x4-8t, v5e-2x4-4t; choose one or add a row to "
        "manifests/k8s/accelerators.yaml",
    ),
    (
        "v4-4x8x4",
        {},
        "accelerator 'v4-4x8x4' is not offered, expected v4-2x2x1, v4-2x2x2, v4-2x2x4, v4-2x4x4, "
        "v4-4x4x4, v4-4x4x8, v4-4x8x8, v4-8x8x8, v4-8x8x16, v4-8x16x16 or, above 64 chips, sides "
        "that are multiples of 4, in ascending order, at most 12x16x16; choose one or add a row "
        "to manifests/k8s/accelerators.yaml",
    ),
    (
        "h100-80gb-3",
        {},
        "accelerator 'h100-80gb-3' is not offered, expected h100-80gb-1, h100-80gb-2, h100-80gb-4, "
        "h100-80gb-8, h100-80gb-8x2, h100-80gb-8x64 (several nodes: 8x2 to 8x64); choose one or "
        "add a row to manifests/k8s/accelerators.yaml",
    ),
    (
        "v5e-2x2",
        {"spot": True, "reservation": "mine"},
        "accelerator 'v5e-2x2' with spot and reservation: expected at most one of spot, flex_start "
        "and reservation; remove the others",
    ),
    (
        "v5e-2x2",
        {"spot": True, "flex_start": True},
        "accelerator 'v5e-2x2' with spot and flex_start: expected at most one of spot, flex_start "
        "and reservation; remove the others",
    ),
    (
        "v4-2x2x1",
        {"flex_start": True},
        "accelerator 'v4-2x2x1' with flex_start: v4 does not support flex_start, expected it "
        "unset; remove it or choose another accelerator",
    ),
    (
        "cpu",
        {"slices": 2},
        "accelerator 'cpu' with slices 2: expected 1, because only TPUs have slices; use more "
        "nodes or a larger shape",
    ),
    (
        "h100-80gb-8x2",
        {"slices": 2},
        "accelerator 'h100-80gb-8x2' with slices 2: expected 1, because only TPUs have slices; use "
        "more nodes or a larger shape",
    ),
    (
        "v5e-2x4-8t",
        {"slices": 2},
        "accelerator 'v5e-2x4-8t' with slices 2: expected 1, because only multi-host slices can be "
        "joined; use a larger topology",
    ),
    (
        "v5p-2x2x2",
        {"slices": 257},
        "accelerator 'v5p-2x2x2' with slices 257: expected at most 256; use a larger topology",
    ),
]


@pytest.mark.parametrize(("accelerator", "options", "message"), REFUSALS)
def test_refusals(accelerator: str, options: dict[str, Any], message: str) -> None:
    assert refusal(accelerator, **options) == message


@pytest.mark.parametrize(
    "accelerator",
    [
        *("", "v5e", "cpu-1", "CPU", "v5e-2x4-1t", "v5e-2x2-4t", "v5e-02x2", "v5e-device-4x4"),
        *("v5p-4x4x6", "v5p-20x20x24", "v5p-4x8", "v5p-2x2x16", "v5p-4x4x4x4", "v5e-32x32"),
        *("l4-3", "l4-1x2", "l4-01", "h100-80gb", "h100-80gb-8x1", "h100-80gb-8x65", "gb200-4x19"),
        *("h100-80gb-4x2", "b200-8x99999", "b200-8x" + "9" * 5000, "tpu7x-1x1x2", "l4-1\n"),
    ],
)
def test_more_that_does_not_exist(accelerator: str) -> None:
    message = refusal(accelerator)
    assert "expected" in message and len(message) < 600


def test_a_long_list_is_shortened() -> None:
    sizes = "".join(f"      - {{machine: m, gpus: {n}}}\n" for n in range(10, 30))
    table = edited(
        "      - {machine: g4-standard-48, gpus: 1}\n",
        sizes + "      - {machine: g4-standard-48, gpus: 1}\n",
    )
    assert "rtx-pro-6000-25 and 8 more; choose" in refusal("rtx-pro-6000-3", table)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"slices": 0}, "greater than or equal to 1"),
        ({"reservation": "projects/p/reservations/r"}, "pattern"),
        ({"compute_class": ""}, "pattern"),
        ({"topology_level": "required"}, "together, or neither"),
        (
            {"topology_key": "cloud.google.com/gce-topology-block"},
            "together, or neither",
        ),
        ({"topology_level": "maybe", "topology_key": "a"}, "'required' or 'preferred'"),
        ({"spott": True}, "Extra inputs"),
    ],
)
def test_requests_that_cannot_be_read(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AcceleratorRequest.model_validate(wrong)


def test_an_operator_adds_rows_without_code() -> None:
    table = edited(
        "    v6e:\n",
        "    v6ea:\n"
        "      hbm_gb_per_chip: 32\n"
        "      node_selector: {cloud.google.com/gke-tpu-accelerator: tpu-v6ea-slice}\n"
        "      env: {LIBTPU_INIT_ARGS: --xla_a=b}\n"
        "      machines:\n"
        "      - {machine: ct6ea-standard-4t, chips_per_host: 4, topologies: [4x4]}\n"
        "    v6e:\n",
    )
    found = shape("v6ea-4x4", table, slices=2)
    assert (found.hosts, found.chips) == (4, 32)
    assert found.node_selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6ea-slice"
    assert found.env == {"JAX_PLATFORMS": "tpu,cpu", "LIBTPU_INIT_ARGS": "--xla_a=b"}
    assert len(table.keys()) == len(TABLE.keys()) + 1


def test_an_operator_moves_the_grace_period_and_the_annotations() -> None:
    table = edited("termination_grace_period_seconds: 120", "termination_grace_period_seconds: 90")
    assert shape("l4-1", table).termination_grace_period_seconds == 90
    assert shape("l4-1", table, spot=True).termination_grace_period_seconds == 25
    quiet = edited('cluster-autoscaler.kubernetes.io/safe-to-evict: "false"', 'a/b: "${hosts}"')
    assert shape("v5e-4x4", quiet).pod_annotations == {"a/b": "4"}


def test_an_option_that_the_operator_took_away() -> None:
    start = TEXT.index("  placement_policy:\n")
    end = TEXT.index("  # Kueue's topology-aware")
    table = edited(TEXT[start:end], "")
    assert refusal("l4-1", table, placement_policy="x") == (
        "accelerator 'l4-1' with placement_policy: own.yaml does not define this option, expected "
        "spot, flex_start, reservation, compute_class, topology_required, topology_preferred; "
        "remove it or add it to that file"
    )


@pytest.mark.parametrize(
    ("old", "new", "anchor", "message"),
    [
        ("chips_per_host: 1", "chip_per_host: 1", "chip_per_host", "chip_per_host is an unknown"),
        ("chips_per_host: 4\n", "chips_per_host: 3\n", "machine: ct4p", "3 does not divide"),
        ("topologies: [1x1]", "topologies: [1x]", "[1x]", "is '1x', expected a value that matches"),
        ("topologies: [1x1]", "topologies: [1x1, 1x1]", "[1x1, 1x1]", "every topology once"),
        ("gpus: 2}", "gpus: two}", "gpus: two", "gpus is 'two', expected a valid integer"),
        ("    v5p:\n", "    v4:\n", None, "key 'v4' is given twice; remove one"),
        ("    l4:\n", "    v4:\n", None, "family v4 is defined twice, expected it under one"),
        (
            'gke-spot: "true"',
            "gke-spot: true",
            "gke-spot: true",
            "is True, expected a valid string",
        ),
        (
            "topology: ${topology}",
            "topology: ${tpology}",
            "${tpology}",
            "expected only placeholders",
        ),
        ("JAX_PLATFORMS: tpu,cpu", "JAX_PLATFORMS: $cpu", "$cpu", "expected only placeholders"),
        ('value: "true"', "operator: Exists", None, "given twice"),
        ("value: present, ", "", "google.com/tpu, op", "expected a value with operator Equal"),
        (
            "refuses: [flex_start]",
            "refuses: [flexstart]",
            "[flexstart]",
            "is 'flexstart', expected",
        ),
        ("  resource: nvidia", "  resource: [nvidia", None, "broken YAML"),
    ],
)
def test_a_wrong_table_says_where(old: str, new: str, anchor: str | None, message: str) -> None:
    text = TEXT.replace(old, new, 1)
    assert text != TEXT
    with pytest.raises(SpecError, match=r"^own.yaml:[0-9]+: ") as caught:
        load_accelerators(text.encode(), "own.yaml")
    assert message in str(caught.value)
    if anchor:
        line = int(str(caught.value).split(":")[1])
        assert anchor in text.splitlines()[line - 1]


@pytest.mark.parametrize("data", [b"", b"- a\n", b"\xff\xfa", b"\xff\xfe\xfa", b"a: 1\n"])
def test_not_a_table(data: bytes) -> None:
    with pytest.raises(SpecError, match=r"^own.yaml(:1)?: "):
        load_accelerators(data, "own.yaml")


def test_one_shape_made_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="shape 'l4-2' is defined twice"):
        edited("gpus: 1}  # GKE may", "gpus: 2}  # GKE may")


def test_a_placeholder_without_a_value() -> None:
    table = edited("cpu:  #", 'cpu:\n  env: {A: "${topology}"}\n  #')
    assert refusal("cpu", table) == (
        "own.yaml: placeholder 'topology' has no value in this place, expected one of hosts, "
        "slices, chips_per_host; fix the table"
    )


def test_texts_are_texts() -> None:
    for key, spot in itertools.product(TABLE.keys(), [False, True]):
        found = shape(key, spot=spot)
        texts = [found.node_selector, found.resources, found.env, *found.tolerations]
        texts += [found.pod_annotations, found.jobset_annotations]
        assert all("$" not in value for text in texts for value in text.values())
        assert Shape.model_validate_json(found.model_dump_json()) == found
