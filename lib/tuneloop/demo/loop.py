"""The demo: run the whole loop on this machine in one folder.

The trace store runs on a free loopback port during the demo. All posted batches have idempotency
keys, so a second demo in the same folder finds the results of the first and runs no stage again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tuneloop import resources
from tuneloop.demo.tasks import demo_traces
from tuneloop.runs import store_app
from tuneloop.runs.local import run_plan
from tuneloop.runs.plan import Plan, load_plan
from tuneloop.runs.results import Progress, StageResult
from tuneloop.runs.spec_file import load_run_spec
from tuneloop.specs.run import RunSpec
from tuneloop.storage import files, paths
from tuneloop.traces.client import TraceClient

TRACES = 4000
BATCH = 1000
SEED = 0
"""Seed of the demo's traces and of its dataset."""
INSTRUCTION = "Show your work as steps"
CONFIG = "jobs/configs/demo.yaml"


@dataclass(frozen=True)
class DemoResult:
    """The plan and the stage results of a demo."""

    plan: Plan
    stages: list[StageResult]


def run_demo(
    workdir: Path,
    *,
    stored: Callable[[int, str], None],
    planned: Callable[[Plan], None],
    started: Callable[[str], None],
    progress: Progress,
    finished: Callable[[StageResult], None],
) -> DemoResult:
    """Run the demo in a folder; stages that an earlier demo finished there are not run again.

    Args:
        workdir: folder for `store.db` and `artifacts/`.
        stored: called with (number of traces, dataset key) once the dataset is published.
        planned: called with the plan.
        started: see `run_plan`.
        progress: see `run_plan`.
        finished: see `run_plan`.
    """
    spec = load_run_spec(str(resources.data_path(CONFIG)))
    artifacts = paths.absolute(str(workdir / "artifacts"))
    database = (workdir / "store.db").absolute()
    files.make_folder(str(database.parent))
    with store_app.running(f"sqlite:///{database}", artifacts) as store_url:
        stored(*fill_store(store_url, spec.dataset))
        plan = load_plan(placed_spec(spec, artifacts, store_url))
        planned(plan)
        stages = run_plan(plan, started=started, progress=progress, finished=finished)
    return DemoResult(plan, stages)


def fill_store(store_url: str, dataset_key: str) -> tuple[int, str]:
    """Post the demo's traces and build its dataset; repeating the call changes nothing."""
    traces = iter(demo_traces(TRACES, SEED))
    count = 0
    name, _, version = dataset_key.rpartition("-")
    with TraceClient(store_url) as client:
        while batch := list(islice(traces, BATCH)):
            client.post_batch(batch, f"demo/{SEED}/{TRACES}/{count}")
            count += len(batch)
        built = client.build_dataset(
            {
                "dataset_name": name,
                "dataset_version": version,
                # The import stage posts eval traces to the same store. They must not be trained on.
                "filters": {"source": "tuneloop-demo"},
                "limit": TRACES,
                "recipe": "trace_sft_v1",
                "instruction": INSTRUCTION,
                "seed": SEED,
            }
        )
    return count, str(built["dataset_key"])


def placed_spec(spec: RunSpec, artifacts: str, store_url: str) -> RunSpec:
    """Return the spec with other artifacts and another store; both are outside the run's identity.

    The run id therefore does not change.
    """
    execution = spec.execution.model_copy(update={"artifacts": artifacts, "store_url": store_url})
    return spec.model_copy(update={"execution": execution})
