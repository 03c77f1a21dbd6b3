"""The index of a run is written when a stage ends."""

from __future__ import annotations

from tests.builders import TinyRun
from tests.k8s.twin import IMAGE, Exit, Twin, rendered, worker
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.run_index import RunIndex, parse_run_index
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs.planning.plan import write_run_manifest
from tuneloop.runs.planning.prepare import Prepared, prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.runs.sequence import Callbacks, Sequence
from tuneloop.specs.target import Target
from tuneloop.storage import files


def prepared(run: TinyRun) -> Prepared[KubernetesBackend]:
    rendered(run)
    made = prepare(KubernetesBackend, load_run_spec(str(run.spec_path)), Target(image=IMAGE))
    write_run_manifest(made.plan)
    return made


def index_of(made: Prepared[KubernetesBackend]) -> RunIndex | None:
    run_id, artifacts = made.plan.run_id, made.plan.artifacts
    url = layout.run_index_url(artifacts, run_id)
    return parse_run_index(files.read(url) if files.exists(url) else None, run_id)


def run(made: Prepared[KubernetesBackend], twin: Twin) -> list[list[str]]:
    """Run a sequence; return the finished stages of the index at each end of a stage."""
    seen: list[list[str]] = []

    def finished(_: object) -> None:
        index = index_of(made)
        seen.append([stage.name for stage in index.finished] if index else [])

    backend = KubernetesBackend(made.backend.submission, lambda: twin)
    sequence = Sequence(backend, Callbacks(finished=finished), twin.clock, twin.sleep)
    sequence.run(retry_failed=True, stop_on_interrupt=True)
    return seen


def test_at_each_end_of_a_stage(tiny_run: TinyRun) -> None:
    made, twin = prepared(tiny_run), Twin()
    twin.act = worker(twin)
    stages = ["export", "train", "eval", "import"]
    assert run(made, twin) == [stages[: number + 1] for number in range(4)]
    index = index_of(made)
    assert index is not None
    assert index.is_complete
    assert (index.name, index.dataset, index.model) == ("tiny", "letters-v1", "random gemma3")


def test_at_the_end_of_a_run_whose_results_existed_before(tiny_run: TinyRun) -> None:
    made, twin = prepared(tiny_run), Twin()
    twin.act = worker(twin)
    run(made, twin)
    files.delete_tree(layout.run_index_url(made.plan.artifacts, made.plan.run_id))
    idle = Twin(lambda pod: Exit(70))
    assert [len(stages) for stages in run(made, idle)] == [0, 0, 0, 4]
