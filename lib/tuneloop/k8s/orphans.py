"""Find objects in a cluster that belong to runs whose files are gone.

One request lists each kind. Objects of runs with other artifacts are left alone: the ConfigMap of a
stage holds its spec, which names them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tuneloop.k8s.api import ClusterApi, Object
from tuneloop.k8s.names import RUN
from tuneloop.storage import paths
from tuneloop.storage.packed import unpack

SELECTOR = "app.kubernetes.io/name=tuneloop"
WORKLOADS = ("Job", "JobSet")
_ENDED = ("Complete", "Completed", "Failed")
"""Conditions of a Job or JobSet that has ended."""


@dataclass(frozen=True)
class Orphan:
    """An object of a run whose folder is gone."""

    kind: str
    name: str
    uid: str
    run_id: str

    @property
    def path(self) -> str:
        """Kind and name, such as `ConfigMap demo-export-0a1b2c3d`."""
        return f"{self.kind} {self.name}"


def find_orphans(
    cluster: ClusterApi,
    *,
    artifacts: str,
    runs: Collection[str],
    days: float,
    kinds: Iterable[str] = WORKLOADS,
) -> list[Orphan]:
    """Find the objects of runs that have no folder; nothing is deleted.

    Args:
        cluster: the namespace.
        artifacts: URL of the artifacts prefix; runs with other artifacts are left alone.
        runs: ids of the runs that have a folder below the prefix.
        days: minimum age in days, on the server's clock.
        kinds: kinds of workloads that the cluster serves.

    Returns:
        Workloads, then ConfigMaps. A run with a workload that has not ended keeps all its objects.
    """
    cutoff = cluster.now() - timedelta(days=days)
    found = [each for kind in (*kinds, "ConfigMap") for each in _list(cluster, kind)]
    places: dict[str, set[str | None]] = {}
    kept = set(runs)
    for each in found:
        run_id = each["metadata"]["labels"][RUN]
        if each["kind"] == "ConfigMap":
            places.setdefault(run_id, set()).add(_artifacts_of(each))
        if not _is_over(each, cutoff):
            kept.add(run_id)
    ours = {paths.absolute(artifacts).rstrip("/")}
    return [
        Orphan(each["kind"], each["metadata"]["name"], each["metadata"]["uid"], run_id)
        for each in found
        if (run_id := each["metadata"]["labels"][RUN]) not in kept and places.get(run_id) == ours
    ]


def _list(cluster: ClusterApi, kind: str) -> list[Object]:
    # The items of a list have no kind.
    items = ({**each, "kind": kind} for each in cluster.find(kind, SELECTOR))
    return [each for each in items if each["metadata"].get("labels", {}).get(RUN)]


def _is_over(each: Object, cutoff: datetime) -> bool:
    """Return whether an object is old and, if it is a workload, has ended."""
    if datetime.fromisoformat(each["metadata"]["creationTimestamp"]) > cutoff:
        return False
    conditions = each.get("status", {}).get("conditions", [])
    return each["kind"] == "ConfigMap" or any(
        condition["type"] in _ENDED and condition["status"] == "True" for condition in conditions
    )


def _artifacts_of(config_map: Object) -> str | None:
    """Return the artifacts that a ConfigMap names; None if it names none."""
    texts: list[Any] = list((config_map.get("data") or {}).values())
    try:
        for data in (config_map.get("binaryData") or {}).values():  # of a submitter
            texts.append(unpack(base64.b64decode(data)))
        (text,) = texts
        value = json.loads(text)
        return str(value.get("execution", value)["artifacts"]).rstrip("/")
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return None


def delete_orphans(cluster: ClusterApi, orphans: Iterable[Orphan]) -> list[Orphan]:
    """Delete objects; returns those that still existed."""
    return [each for each in orphans if cluster.delete(each.kind, each.name, uid=each.uid)]
