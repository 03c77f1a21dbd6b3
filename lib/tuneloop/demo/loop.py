"""The demo: run the whole loop on this machine in one folder.

The trace store runs on a free loopback port during the demo. All posted batches have idempotency
keys, so a second demo in the same folder finds the results of the first and runs no stage again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneloop import resources
from tuneloop.demo import real, tasks
from tuneloop.runs import store_app
from tuneloop.runs.local import run_plan
from tuneloop.runs.planning.plan import Plan, load_plan
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.runs.results import Progress, StageResult
from tuneloop.specs.run import RunSpec
from tuneloop.storage import files, paths
from tuneloop.traces.client import TraceClient

BATCH = 1000
SEED = 0
"""Seed of the traces and of the dataset."""


@dataclass(frozen=True)
class Demo:
    """What a demo runs on: its traces, its run spec, and the model that it starts from."""

    config: str
    """Path of the run spec, relative to a checkout."""
    traces: Callable[[int], list[dict[str, Any]]]
    """Seed -> traces; the same seed gives the same traces."""
    source: str
    """`meta.source` of the traces. The import stage posts eval traces to the same store, and they
    must not be trained on."""
    recipe: str
    instruction: str | None
    add_model: Callable[[str, Callable[[str], None]], None] | None = None
    """(artifacts, called with a line for people) -> stores the model; None for random weights."""


TINY = Demo(
    config="jobs/configs/demo.yaml",
    traces=lambda seed: tasks.demo_traces(4000, seed),
    source=tasks.SOURCE,
    recipe="trace_sft_v1",
    instruction="Show your work as steps",
)
"""`tuneloop demo`: a tiny model with random weights, in a minute."""

REAL = Demo(
    config="jobs/configs/real.yaml",
    traces=real.real_traces,
    source=real.SOURCE,
    recipe="trace_or_chat_v1",
    instruction=None,
    add_model=real.add_real_model,
)
"""`tuneloop demo --real`: a published model, in a quarter of an hour."""


@dataclass(frozen=True)
class DemoResult:
    """The plan and the stage results of a demo."""

    plan: Plan
    stages: list[StageResult]


def run_demo(
    demo: Demo,
    workdir: Path,
    *,
    say: Callable[[str], None],
    planned: Callable[[Plan], None],
    started: Callable[[str], None],
    progress: Progress,
    finished: Callable[[StageResult], None],
) -> DemoResult:
    """Run a demo in a folder; stages that an earlier demo finished there are not run again.

    Args:
        demo: what to run.
        workdir: folder for `store.db` and `artifacts/`.
        say: called with a line for people: the stored model, the traces and the dataset.
        planned: called with the plan.
        started: see `run_plan`.
        progress: see `run_plan`.
        finished: see `run_plan`.
    """
    spec = load_run_spec(str(resources.data_path(demo.config)))
    artifacts = paths.absolute(str(workdir / "artifacts"))
    database = (workdir / "store.db").absolute()
    files.make_folder(str(database.parent))
    if demo.add_model is not None:
        demo.add_model(artifacts, say)
    with store_app.running(f"sqlite:///{database}", artifacts) as store_url:
        count, key = fill_store(demo, store_url, spec.dataset)
        say(f"store    {count} traces, dataset {key}")
        plan = load_plan(placed_spec(spec, artifacts, store_url))
        planned(plan)
        stages = run_plan(plan, started=started, progress=progress, finished=finished)
    return DemoResult(plan, stages)


def fill_store(demo: Demo, store_url: str, dataset_key: str) -> tuple[int, str]:
    """Post the demo's traces and build its dataset; repeating the call changes nothing."""
    traces = demo.traces(SEED)
    name, _, version = dataset_key.rpartition("-")
    with TraceClient(store_url) as client:
        for start in range(0, len(traces), BATCH):
            batch = traces[start : start + BATCH]
            client.post_batch(batch, f"{demo.source}/{SEED}/{len(traces)}/{start}")
        built = client.build_dataset(
            {
                "dataset_name": name,
                "dataset_version": version,
                "filters": {"source": demo.source},
                "limit": len(traces),
                "recipe": demo.recipe,
                "instruction": demo.instruction,
                "seed": SEED,
            }
        )
    return len(traces), str(built["dataset_key"])


def placed_spec(spec: RunSpec, artifacts: str, store_url: str) -> RunSpec:
    """Return the spec with other artifacts and another store; both are outside the run's identity.

    The run id therefore does not change.
    """
    execution = spec.execution.model_copy(update={"artifacts": artifacts, "store_url": store_url})
    return spec.model_copy(update={"execution": execution})
