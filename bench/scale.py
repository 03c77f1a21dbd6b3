"""Real objects at several sizes, and the tables of docs/explanation/appendix-scale.md.

The page contains each table between `<!-- NAME -->` and `<!-- end -->`, as its script prints it.
With `--write`, as in `python bench/scale_objects.py --write`, a script updates the page.
tests/test_scale.py checks that page and scripts agree.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.builders import stage_specs  # noqa: E402 - needs the path above
from tuneloop.artifacts.runs.submission import Submission, SubmittedStage  # noqa: E402
from tuneloop.k8s.rendering.manifests import FOLDER, load_manifests  # noqa: E402
from tuneloop.k8s.rendering.render import Renderer  # noqa: E402
from tuneloop.k8s.rendering.submitter import (  # noqa: E402
    render_config_map,
    render_submitter,
)
from tuneloop.specs.cluster import ClusterSpec, StagePlacement  # noqa: E402
from tuneloop.stages.pipelines import TRAINING_STAGES  # noqa: E402

PAGE = REPOSITORY / "docs/explanation/appendix-scale.md"
IMAGE = "registry.example/team/tuneloop@sha256:" + "0964917e" * 8

RUNS = 1_000
"""Number of runs at the same time."""
TRACES = 10**9
POLL_SECONDS = 5.0
"""Seconds between two polls of a stage; the default of `wait` and of the submitter."""
SLICE = StagePlacement(accelerator="v5p-16x16x24", slices=7, cpu="200", memory="400Gi")
"""Seven of GKE's largest slices (1,536 hosts with four chips each), so 10,752 hosts."""

MEASURED = {
    "ConfigMap": (4_700, 6_200),
    "Job": (5_900, 8_000),
    "JobSet": (5_400, 5_800),
    "Pod": (6_200, 8_800),
    "Event": (600, 1_100),
}
"""Kind -> bytes of one object (in etcd, as JSON on the wire), rounded from scale_etcd.py."""

Row = Sequence[str]
Tables = dict[str, list[Row]]


def renderer_of(train: StagePlacement, namespace: str = "training") -> Renderer:
    """Return a renderer for the run of `tests/builders.py` with this machine for training."""
    manifests = load_manifests(str(REPOSITORY / FOLDER))
    spec = ClusterSpec(namespace=namespace, train=train)
    return Renderer("demo", spec, IMAGE, "0964917", manifests.templates, manifests.accelerators)


def objects_of(renderer: Renderer) -> list[dict[str, Any]]:
    """Render all objects of a detached run, except the account and Role that all runs share."""
    specs = stage_specs()
    found = [document for name in TRAINING_STAGES for document in renderer.render(specs[name])]
    run = specs["export"]
    submission = Submission(
        run_id=run.run_id,
        artifacts=run.execution.artifacts,
        namespace=renderer.cluster.namespace,
        image=renderer.image,
        timeouts=renderer.cluster.timeouts,
        stages=[
            SubmittedStage(name=name, fingerprint="0" * 64, documents=found[2 * n : 2 * n + 2])
            for n, name in enumerate(TRAINING_STAGES)
        ],
        submitter=render_submitter(
            renderer, run.run_id, stages=TRAINING_STAGES, fingerprint=specs["import"].fingerprint
        ),
    )
    config_map = render_config_map(submission, renderer.templates.submission)
    return [*found, config_map, submission.submitter_job]


def kilobytes(count: float) -> str:
    """Format a number of bytes in kB (1,000 bytes)."""
    return f"{count / 1000:,.1f} kB"


def megabytes(count: float) -> str:
    """Format a number of bytes in MB (1,000,000 bytes)."""
    return f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes, hours or days."""
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def block(rows: Sequence[Row]) -> str:
    """Format a Markdown table; the first row is the header."""
    head, *body = rows
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def in_page(name: str) -> str:
    """Return the current table of the page."""
    found = re.search(_place(name), PAGE.read_text("utf-8"), re.DOTALL)
    assert found, f"{PAGE}: no table {name}"
    return found[2]


def show(tables: Tables) -> None:
    """Print the tables; with `--write`, also update the page."""
    for name, rows in tables.items():
        text = block(rows)
        sys.stdout.write(f"{name}\n{text}\n")
        if "--write" in sys.argv:
            page = PAGE.read_text("utf-8")
            page = re.sub(_place(name), _with(text), page, flags=re.DOTALL)
            PAGE.write_text(page, encoding="utf-8")


def _with(text: str) -> Callable[[re.Match[str]], str]:
    return lambda found: f"{found[1]}{text}{found[3]}"


def _place(name: str) -> str:
    return rf"(<!-- {re.escape(name)} -->\n)(.*?)(<!-- end -->)"
