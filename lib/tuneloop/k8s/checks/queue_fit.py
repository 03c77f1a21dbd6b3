"""Whether a ClusterQueue could ever admit a workload: Kueue's rules for quota and flavors, pure.

Kueue assigns one flavor of a resource group to all resources of that group. A flavor fits if its
labels match the node selector of the pods, if the pods tolerate its taints, and if the queue's
maximum is large enough. What is in use at the moment does not matter here.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tuneloop.k8s.client.connection import parse_quantity

Object = dict[str, Any]


def why_unfit(
    needs: Mapping[str, Decimal], pod: Object, queue: Object, flavors: Mapping[str, Object | None]
) -> str | None:
    """Return why a queue can never admit a workload, or None if it can.

    Args:
        needs: resource -> amount that all pods of the workload request together.
        pod: spec of its pods.
        queue: the ClusterQueue.
        flavors: name of a ResourceFlavor -> the object; None if it does not exist.
    """
    groups = queue.get("spec", {}).get("resourceGroups", [])
    covered = {name for group in groups for name in group["coveredResources"]}
    missing = sorted(name for name, amount in needs.items() if amount and name not in covered)
    if missing:
        return f"covers no {', '.join(missing)}, which the stage requests"
    is_in_cohort = bool(queue["spec"].get("cohortName"))
    for group in groups:
        asked = {name: needs[name] for name in group["coveredResources"] if needs.get(name)}
        if not asked:
            continue
        reasons = []
        for offered in group["flavors"]:
            flavor = flavors.get(offered["name"])
            reason = _why_not(asked, pod, offered, flavor, is_in_cohort)
            if reason is None:
                break
            reasons.append(f"flavor {offered['name']} {reason}")
        else:
            return "; ".join(reasons) or f"has no flavor for {', '.join(sorted(asked))}"
    return None


def _why_not(
    asked: Mapping[str, Decimal],
    pod: Object,
    offered: Object,
    flavor: Object | None,
    is_in_cohort: bool,
) -> str | None:
    if flavor is None:
        return "does not exist"
    spec = _spec(flavor)
    labels = spec.get("nodeLabels", {})
    # As Kueue does: a flavor says nothing about labels that it does not have.
    for key, value in pod.get("nodeSelector", {}).items():
        if labels.get(key, value) != value:
            return f"has nodes with {key}={labels[key]}, but the pods select {value}"
    tolerations = [*pod.get("tolerations", []), *spec.get("tolerations", [])]
    for taint in spec.get("nodeTaints", []):
        if taint["effect"] in ("NoSchedule", "NoExecute") and not any(
            _tolerates(toleration, taint) for toleration in tolerations
        ):
            return f"has the taint {taint['key']}, which the pods do not tolerate"
    for resource in offered["resources"]:
        name = resource["name"]
        most = _maximum(resource, is_in_cohort)
        if most is not None and asked.get(name, 0) > most:
            asks = f"the stage requests {_plain(asked[name])}"
            return f"allows at most {_plain(most)} of {name}, but {asks}"
    return None


def _spec(flavor: Object | None) -> Object:
    found: Object = (flavor or {}).get("spec") or {}
    return found


def _plain(amount: Decimal) -> str:
    """Return a number without trailing zeros and without an exponent."""
    return format(amount.normalize(), "f")


def _maximum(resource: Object, is_in_cohort: bool) -> Decimal | None:
    """Return what a queue may use of a resource; None if a cohort may lend it any amount."""
    nominal: Decimal = parse_quantity(str(resource.get("nominalQuota", 0)))
    if not is_in_cohort:
        return nominal
    limit = resource.get("borrowingLimit")
    return None if limit is None else nominal + Decimal(parse_quantity(str(limit)))


def _tolerates(toleration: Object, taint: Object) -> bool:
    """Return whether a toleration matches a taint, by the rules of Kubernetes."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    exists: bool = toleration.get("operator", "Equal") == "Exists"
    if not toleration.get("key"):
        return exists
    same_value: bool = toleration.get("value", "") == taint.get("value", "")
    return bool(toleration["key"] == taint["key"]) and (exists or same_value)
