"""The table of backends, and a made-up row of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import Invoke, TinyRun
from tests.k8s.twin import publish_record
from tuneloop.artifacts import layout
from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.errors import UsageError
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs import backend as backends
from tuneloop.runs.backend import load_backend
from tuneloop.runs.local import LocalBackend
from tuneloop.runs.planning.plan_table import plan_rows
from tuneloop.runs.planning.prepare import prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.runs.sequence import Sequence
from tuneloop.specs.sampling import AnyRunSpec
from tuneloop.specs.target import Machines, Target
from tuneloop.storage import files


class InlineBackend(LocalBackend):
    """Does each stage's work at its second poll, without a process."""

    poll_seconds = 0.0

    @staticmethod
    def code_identity(spec: AnyRunSpec, target: Target) -> str | None:
        """Return a name for the code of this made-up backend."""
        return "inline"

    def machines(self, stage: str) -> Machines:
        """Return a machine that no other backend has."""
        return Machines("inline", "abacus", 1, 0)

    def submit(self, stage: str, *, retry_failed: bool) -> None:
        """Remember the stage."""
        self.polls = 0

    def poll(self, stage: str) -> Verdict:
        """Publish at the second poll."""
        self.polls += 1
        if self.polls == 1:
            return Verdict("Running", f"{stage} is counted by hand")
        publish_record(self._specs[stage])
        return Verdict("Succeeded", "the record is published", exit_code=0)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"inline": "tests.runs.test_backend:InlineBackend"}
    monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, **row})


@pytest.mark.usefixtures("inline")
def test_a_new_row_runs_a_plan_to_its_end(tiny_run: TinyRun) -> None:
    spec = load_run_spec(str(tiny_run.spec_path))
    prepared = prepare(load_backend("inline"), spec)
    assert prepared.plan.run_id != tiny_run.plan().run_id  # its code is another
    results = Sequence(prepared.start()).run(retry_failed=True, stop_on_interrupt=True)
    assert [(r.name, r.state) for r in results] == [
        (stage.stage, "done") for stage in prepared.plan.stages
    ]
    run = layout.run_prefix(prepared.plan.artifacts, prepared.plan.run_id)
    assert files.exists(f"{run}/run_manifest.json")
    rows = plan_rows(prepared.plan, prepared.backend)
    assert {(row.where, row.accelerator, row.state) for row in rows} == {
        ("inline", "abacus", "done")
    }


@pytest.mark.usefixtures("inline")
def test_the_verb_lists_every_row(tiny_run: TinyRun, tuneloop: Invoke) -> None:
    code, _, err = tuneloop("run", tiny_run.spec_path, "--backend", "nowhere")
    assert code == 2
    assert "--backend nowhere: unknown, expected one of local, kubernetes, inline, cluster" in err


@pytest.mark.parametrize(
    ("name", "expected"),
    [("local", LocalBackend), ("kubernetes", KubernetesBackend), ("cluster", KubernetesBackend)],
)
def test_names(name: str, expected: Any) -> None:
    assert load_backend(name) is expected


def test_no_backend_of_that_name() -> None:
    with pytest.raises(UsageError, match="expected one of local, kubernetes, cluster"):
        load_backend("slurm")
