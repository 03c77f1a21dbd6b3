"""Recordings of real clusters as observations, and the verdicts that are expected on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from tuneloop.k8s.diagnosis.observed import Observation, mapping
from tuneloop.k8s.events import event_time
from tuneloop.k8s.names import STAGE

FOLDER = Path(__file__).parent / "recordings"


@dataclass(frozen=True)
class Expected:
    """The verdict on a recording."""

    state: str
    exit_code: int | None
    cause: str
    """Part of the cause."""
    fix: str
    """Part of the fix; empty if waiting is enough."""
    about: str
    """Kind and name of the object that shows the cause."""


def expectations() -> dict[str, Expected]:
    """Return recording -> expected verdict."""
    rows = yaml.safe_load((FOLDER.parent / "expected.yaml").read_bytes())
    return {name: Expected(*row) for name, row in rows.items()}


def names() -> list[str]:
    """Return the names of all recordings."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """Return a recording as it was written."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_bytes())
    return found


def observation(name: str) -> Observation:
    """Return what a supervisor sees at the moment of a recording."""
    found = read(name)
    workload = found["workload"]
    if workload is None:  # deleted: the supervisor knows its name
        job = next(e["involvedObject"] for e in found["other_events"] if "Job" in str(e))
        workload_name, stage = job["name"].removesuffix("-w-0"), "train"
    else:
        workload_name = workload["metadata"]["name"]
        stage = workload["metadata"]["labels"][STAGE]
    # The supervisor also asks for events about earlier child Jobs, which have the same name.
    jobs = {workload_name, *(f"{workload_name}-w-{index}" for index in range(2))}
    earlier = [
        event
        for event in found["other_events"]
        if mapping(event["involvedObject"]).get("name") in jobs
    ]
    queues = (found.get("local_queues") or [None], found.get("cluster_queues") or [None])
    return Observation(
        stage=stage,
        name=workload_name,
        workload=workload,
        pods=found["pods"],
        events=sorted([*found["events"], *earlier], key=event_time),
        record_published=False,
        now=datetime.fromisoformat(found["now"]),
        child_jobs=found["child_jobs"],
        queue_workload=found["kueue_workload"],
        local_queue=queues[0][0],
        cluster_queue=queues[1][0],
    )
