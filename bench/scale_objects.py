"""Number of objects that runs leave in a cluster, and their size in etcd.

The script renders the objects as `submit --detach` does and uses the sizes that scale_etcd.py
measured for one object of each kind. The result is deterministic.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from figure import print_figure
from scale import (
    MEASURED,
    RUNS,
    SLICE,
    Row,
    Tables,
    duration,
    megabytes,
    objects_of,
    renderer_of,
    show,
)

from tuneloop.specs.cluster import StagePlacement

ETCD_BYTES = 8 * 2**30
"""Maximum size of a database that etcd's documentation suggests."""
OBJECT_BYTES = 3 * 2**19
"""Largest request that etcd accepts by default, 1.5 MiB."""
EVENTS_A_STAGE = 6
DAY = 86_400
NODES = 5_000
"""Maximum number of nodes, from "Considerations for large clusters" of Kubernetes."""
PODS = 150_000
LABEL = 63
"""Maximum number of characters of a pod's host name."""
PODS_A_SECOND = {"20 requests/s, the default": 19, "300 requests/s": 46}
"""Rate limit of the Job controller -> pods per second that it creates, from scale_gang.py."""


def kinds_of(placement: StagePlacement) -> Counter[str]:
    """Count the objects of a run by kind, including the pods and Jobs that controllers create."""
    renderer = renderer_of(placement)
    found: Counter[str] = Counter()
    for document in objects_of(renderer):
        found[document["kind"]] += 1
        if document["kind"] == "JobSet":
            (replicated,) = document["spec"]["replicatedJobs"]
            found["Job"] += replicated["replicas"]
            found["Pod"] += replicated["replicas"] * replicated["template"]["spec"]["completions"]
        elif document["kind"] == "Job":
            found["Pod"] += document["spec"].get("completions") or 1
    return found


def stored_bytes(kinds: Counter[str]) -> int:
    """Return the size of the objects in etcd, in bytes."""
    return sum(count * MEASURED[kind][0] for kind, count in kinds.items())


def standing(kinds: Counter[str], run_seconds: float, ttl_days: int) -> tuple[int, int]:
    """Return the number of runs with objects while RUNS run continuously, and their bytes."""
    runs = round(RUNS * (1 + ttl_days * DAY / run_seconds))
    events = RUNS * EVENTS_A_STAGE * MEASURED["Event"][0]
    return runs, runs * stored_bytes(kinds) + events


def longest_host_name() -> int:
    """Return the length of a pod's host name in the largest JobSet.

    The host name is <JobSet>-<job>-<slice>-<host>.
    """
    gang = _gang()
    (replicated,) = gang["spec"]["replicatedJobs"]
    hosts = replicated["template"]["spec"]["completions"]
    name = f"{gang['metadata']['name']}-{replicated['name']}"
    return len(f"{name}-{replicated['replicas'] - 1}-{hosts - 1}-xxxxx")


def _gang() -> dict[str, Any]:
    return next(d for d in objects_of(renderer_of(SLICE)) if d["kind"] == "JobSet")


def tables() -> Tables:
    """The figures of docs/explanation/appendix-scale.md."""
    small, large = kinds_of(StagePlacement()), kinds_of(SLICE)
    names = ("ConfigMap", "Job", "JobSet", "Pod")
    counts: list[Row] = [["", *names, "in etcd"]]
    for title, kinds in (("a run on single machines", small), ("a run with the gang", large)):
        shown = [f"{kinds[name]:,}" for name in names]
        counts.append([title, *shown, megabytes(stored_bytes(kinds))])
    kept: list[Row] = [["a run takes", "ttl_days", "runs kept", "in etcd", "of 8 GiB"]]
    for seconds, ttl in ((DAY, 3), (6 * 3600, 3), (3600, 3), (3600, 1), (900, 1)):
        runs, size = standing(small, seconds, ttl)
        share = f"{100 * size / ETCD_BYTES:.0f} %"
        kept.append([duration(seconds), str(ttl), f"{runs:,}", megabytes(size), share])
    shape = renderer_of(SLICE).accelerators.shape(SLICE.accelerator_request())
    hosts = shape.hosts * shape.slices
    limits: list[Row] = [
        ["the gang", "here", "limit", "where from"],
        ["hosts", f"{hosts:,}", f"{NODES:,}", "Kubernetes"],
        ["pods", f"{hosts:,}", f"{PODS:,}", "Kubernetes"],
        ["its JobSet, bytes", f"{MEASURED['JobSet'][0]:,}", f"{OBJECT_BYTES:,}", "etcd"],
        ["host name, characters", str(longest_host_name()), str(LABEL), "DNS label"],
    ]
    starts: list[Row] = [
        ["the controller manager may send", "last pod after", "chip-hours that wait meanwhile"]
    ]
    for title, rate in PODS_A_SECOND.items():
        until_last = hosts / rate
        waiting = shape.chips * until_last / 2 / 3600
        starts.append([title, duration(until_last), f"{waiting:,.0f}"])
    return {
        "scale_objects counts": counts,
        "scale_objects kept": kept,
        "scale_objects gang": limits,
        "scale_objects starts": starts,
    }


def main() -> None:
    """Print the tables; the figure compares etcd's size for hour-long runs with its limit."""
    show(tables())
    _, size = standing(kinds_of(StagePlacement()), 3600, 3)
    print_figure("scale_objects", "bytes", [(size, ETCD_BYTES)])


if __name__ == "__main__":
    main()
