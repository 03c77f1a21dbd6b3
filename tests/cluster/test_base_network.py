"""Test which pods may connect to each other, by the documented semantics of NetworkPolicies.

There is no network plug-in that enforces the policies. The tests match the policies with the labels
that pods really get, so that a selector that matches no pod is found.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import REPOSITORY
from tests.k8s.rendering.test_render import rendered, submitter
from tuneloop.stages.table import STAGES

Object = dict[str, Any]
GOLDEN = Path(REPOSITORY, "tests", "golden", "cluster")
DNS, METADATA = "kube-system", "169.254.169.254"
PUBLIC, PRIVATE = "142.250.1.1", "10.1.2.3"


def policies(overlay: str) -> list[Object]:
    found = yaml.safe_load_all((GOLDEN / f"{overlay}.yaml").read_text())
    return [each["spec"] for each in found if each["kind"] == "NetworkPolicy"]


def pods(overlay: str) -> dict[str, dict[str, str]]:
    """Return the labels of every kind of pod in the namespace."""
    labels = rendered("export")[1]["spec"]["template"]["metadata"]["labels"]
    stages = {
        stage: {key: stage if value == "export" else value for key, value in labels.items()}
        for stage in STAGES
    }
    stages["train"] = rendered("train")[1]["spec"]["template"]["metadata"]["labels"]
    stages["submitter"] = submitter()[-1]["spec"]["template"]["metadata"]["labels"]
    for each in yaml.safe_load_all((GOLDEN / f"{overlay}.yaml").read_text()):
        if each["kind"] in ("Deployment", "StatefulSet"):
            labels = each["spec"]["template"]["metadata"]["labels"]
            stages[each["metadata"]["name"]] = labels
        if each["kind"] == "CronJob":
            pod = each["spec"]["jobTemplate"]["spec"]["template"]
            stages[each["metadata"]["name"]] = pod["metadata"]["labels"]
    return {**stages, "stranger": {"app": "anything"}}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def is_peer(peer: Object, other: dict[str, str] | str) -> bool:
    """Return whether a policy's peer matches a pod (labels), kube-system, or an address."""
    if "ipBlock" in peer:
        if not isinstance(other, str) or other == DNS:
            return False
        address, block = ipaddress.ip_address(other), peer["ipBlock"]
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(
            address in ipaddress.ip_network(each) for each in block.get("except", [])
        )
    if isinstance(other, str):
        wanted = {"matchLabels": {"kubernetes.io/metadata.name": other}}
        return bool(peer.get("namespaceSelector") == wanted and other == DNS)
    return "namespaceSelector" not in peer and selects(peer["podSelector"], other)


def may(
    rules: list[Object],
    direction: str,
    pod: dict[str, str],
    other: dict[str, str] | str,
    port: int,
    protocol: str = "TCP",
) -> bool:
    side, ends = ("Egress", "to") if direction == "egress" else ("Ingress", "from")
    chosen = [p for p in rules if side in p["policyTypes"] and selects(p["podSelector"], pod)]
    return not chosen or any(
        (ends not in rule or any(is_peer(peer, other) for peer in rule[ends]))
        and (
            "ports" not in rule
            or any((p["port"], p["protocol"]) == (port, protocol) for p in rule["ports"])
        )
        for policy in chosen
        for rule in policy.get(direction, [])
    )


def reached(overlay: str, port: int, to: str) -> set[str]:
    """Return the kinds of pods that reach a kind of pod, kube-system or an address on a port."""
    rules, known = policies(overlay), pods(overlay)
    other: dict[str, str] | str = known.get(to, to)
    return {
        name
        for name, labels in known.items()
        if may(rules, "egress", labels, other, port)
        and (isinstance(other, str) or may(rules, "ingress", other, labels, port))
    }


WRITERS = {*STAGES, "submitter", "store", "gc"}


@pytest.mark.parametrize(
    ("overlay", "to", "port", "expected"),
    [
        *((overlay, PUBLIC, 443, WRITERS) for overlay in ("bare", "eks", "gke", "kind")),
        ("gke", PUBLIC, 80, set()),
        ("gke", PRIVATE, 443, {"submitter"}),  # the API server
        ("gke", PRIVATE, 6443, {"submitter"}),
        ("bare", PRIVATE, 9000, WRITERS),  # the object storage within the network
        ("gke", PRIVATE, 9000, set()),
        ("gke", METADATA, 80, WRITERS),
        ("gke", "169.254.169.252", 988, WRITERS),
        ("bare", METADATA, 80, set()),
        ("eks", METADATA, 80, set()),
        ("gke", "store", 8000, {"import"}),
        ("bare", "store", 8000, {"import"}),
        ("bare", "postgres", 5432, {"store"}),
        ("bare", PRIVATE, 5432, set()),
        ("gke", PRIVATE, 5432, {"store"}),
        ("gke", "train", 8476, {"train"}),
        ("gke", "eval", 8476, set()),
        ("gke", DNS, 53, {*WRITERS, "stranger"}),
        ("bare", DNS, 53, {*WRITERS, "postgres", "stranger"}),
        ("gke", DNS, 443, {"submitter"}),
    ],
)
def test_who_reaches_what(overlay: str, to: str, port: int, expected: set[str]) -> None:
    # No selector matches the API server in kube-system; the submitter may use any address.
    assert reached(overlay, port, to) == expected


def test_names_are_asked_for_over_udp_too() -> None:
    rules = policies("gke")
    for labels in pods("gke").values():
        assert may(rules, "egress", labels, DNS, 53, "UDP")
        assert may(rules, "egress", labels, "169.254.20.10", 53, "UDP")


def test_nothing_comes_in_from_elsewhere() -> None:
    rules, known = policies("bare"), pods("bare")
    for labels in known.values():
        assert not may(rules, "ingress", labels, PUBLIC, 8000)
        assert not may(rules, "ingress", labels, known["stranger"], 8000)
