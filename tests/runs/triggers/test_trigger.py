"""`tuneloop trigger` with a real store: it counts new traces, and starts a run once."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Invoke, TinyRun, letter_trace
from tests.finished_run import publish_run
from tests.runs.rounds.world import World
from tuneloop.artifacts import layout
from tuneloop.artifacts.rounds.store import load_rounds, mark_cancelled, read_end
from tuneloop.artifacts.runs import triggers
from tuneloop.artifacts.runs.triggers import Start, read_last
from tuneloop.datasets.read import load_manifest
from tuneloop.errors import DataError, UsageError
from tuneloop.history.inventory import read_inventory
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.runs.rounds import execute
from tuneloop.runs.rounds.spec_file import load_rounds_file
from tuneloop.runs.triggers.new_traces import count_new
from tuneloop.runs.triggers.trigger import Condition, build_dataset, count, decide
from tuneloop.specs.run import RunSpec
from tuneloop.storage import files
from tuneloop.traces.client import TraceClient

NOW = datetime(2026, 11, 28, 22, 0, tzinfo=UTC)
TWO = Condition(2)


@pytest.fixture
def client(store: str) -> Iterator[TraceClient]:
    with TraceClient(store) as opened:
        yield opened


@pytest.fixture
def run(tiny_run: TinyRun, store: str) -> TinyRun:
    return tiny_run.change(execution__store_url=store)


def spec_of(run: TinyRun) -> RunSpec:
    return load_run_spec(str(run.spec_path))


def post(client: TraceClient, *numbers: int, source: str = "test") -> None:
    traces = [letter_trace(number) for number in numbers]
    for trace in traces:
        trace["meta"] = {"source": source, "number": trace["meta"]["number"]}
    client.post_batch(traces, f"{source}-{numbers[0]}")


def test_own_traces_do_not_count(client: TraceClient) -> None:
    assert count_new(client, since=None, needed=2).position is None
    post(client, 1, 2, 3)
    first = count_new(client, since=None, needed=10)
    assert first.count == 3
    assert first.position is not None
    post(client, 4, 5, 6, source="evaluation")
    post(client, 7, source="sample")
    again = count_new(client, since=first.position, needed=10)
    assert again.count == 0
    post(client, 8)
    assert count_new(client, since=first.position, needed=10).count == 1
    assert count_new(client, since=None, needed=2).count == 2  # counting ends there
    sampled = count_new(client, since=first.position, needed=10, source="sample")
    assert (sampled.count, sampled.position) == (
        1,
        count_new(client, since=None, needed=1).position,
    )


def test_it_starts_once_for_each_set_of_new_traces(run: TinyRun, client: TraceClient) -> None:
    spec = spec_of(run)
    post(client, 1)
    waiting = decide(spec, TWO, client, now=NOW)
    assert (waiting.action, waiting.new_traces, waiting.start) == ("nothing", 1, None)
    post(client, 2)
    tried = decide(spec, TWO, client, now=NOW, claim=False)
    assert (tried.action, read_last(run.artifacts, "tiny")) == ("start", None)
    started = decide(spec, TWO, client, now=NOW)
    assert started.action == "start"
    start = started.start
    assert start is not None
    assert (start.number, start.dataset_key) == (1, "letters-tiny-1")

    # Killed before the dataset: the next trigger finishes the same start.
    again = decide(spec, TWO, client, now=NOW)
    assert (again.action, again.start, again.run_id) == ("continue", start, None)
    assert build_dataset(spec, start, client) == "letters-tiny-1"
    built = load_manifest(run.artifacts, "letters-tiny-1")
    pattern = load_manifest(run.artifacts, "letters-v1")
    assert built.trace_count == 2
    assert (built.recipe, built.seed) == (pattern.recipe, pattern.seed)
    made = {"trigger": "tiny", "start": 1, "pattern": "letters-v1"}
    assert built.provenance.items() >= made.items()
    assert read_inventory(run.artifacts).starts == {"tiny": (start,)}
    post(client, 3)  # it is not in the dataset, which exists
    assert build_dataset(spec, start, client) == "letters-tiny-1"

    # Its run is unfinished, then finished.
    publish_run(run.artifacts, "letters-v1", "tiny-1", stages=("export",))
    triggers.publish_run(start, "tiny-1", run.artifacts)
    assert decide(spec, TWO, client, now=NOW).run_id == "tiny-1"
    publish_run(run.artifacts, "letters-v1", "tiny-1")
    idle = decide(spec, TWO, client, now=NOW)
    assert (idle.action, idle.new_traces, idle.start) == ("nothing", 1, start)
    post(client, 4)
    second = decide(spec, TWO, client, now=NOW)
    assert second.action == "start"
    assert second.start is not None
    assert (second.start.number, second.start.dataset_key) == (2, "letters-tiny-2")


def test_the_new_dataset_has_the_rules_of_the_pattern(run: TinyRun, client: TraceClient) -> None:
    rules = {"where": {"length": {"max": 100}}, "caps": {"/number": 1}}
    request = {
        "dataset_name": "picked",
        "dataset_version": "v1",
        "filters": {"source": "test"},
        "selection": rules,
        "selection_strategy": "random",
        "seed": 5,
        "limit": 9,
    }
    post(client, 1, 2)
    client.build_dataset(request)
    spec = spec_of(run.change(dataset="picked-v1"))
    post(client, 3, source="other")
    post(client, 4, 5)
    start = decide(spec, Condition(4, "test"), client, now=NOW).start
    assert start is not None
    pattern = load_manifest(run.artifacts, "picked-v1")
    built = load_manifest(run.artifacts, build_dataset(spec, start, client))
    assert (pattern.trace_count, built.trace_count) == (2, 4)
    assert built.selection is not None
    for name in ("filters", "selection", "selection_strategy", "seed", "limit", "recipe"):
        assert getattr(built, name) == getattr(pattern, name), name


@pytest.mark.parametrize("end", ["deleted", "failed here", "failed on a cluster"])
def test_a_run_that_is_gone_or_has_failed_is_not_continued(
    run: TinyRun, client: TraceClient, end: str
) -> None:
    spec = spec_of(run)
    post(client, 1, 2)
    start = decide(spec, TWO, client, now=NOW).start
    assert start is not None
    publish_run(run.artifacts, "letters-v1", "tiny-1", stages=("export",))
    triggers.publish_run(start, "tiny-1", run.artifacts)
    assert decide(spec, TWO, client, now=NOW).action == "continue"
    if end == "deleted":
        files.delete_tree(layout.run_prefix(run.artifacts, "tiny-1"))
    elif end == "failed here":
        triggers.publish_failure(start, "stage train: loss is NaN", run.artifacts)
    else:
        verdict = b'{"state": "UserError", "cause": "x", "exit_code": 10}'
        files.write(
            f"{layout.stage_prefix(run.artifacts, 'tiny-1', 'train')}/verdict.json", verdict
        )
    assert decide(spec, TWO, client, now=NOW).action == "nothing"
    post(client, 3, 4)
    assert decide(spec, TWO, client, now=NOW).action == "start"


def test_two_triggers_at_once_start_one_run(
    run: TinyRun, client: TraceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(run)
    post(client, 1, 2)
    before = read_last(run.artifacts, "tiny")
    assert count(spec, TWO, client, now=NOW).action == "start"
    monkeypatch.setattr(triggers, "read_last", lambda artifacts, name: before)
    later = datetime(2026, 11, 28, 22, 1, tzinfo=UTC)
    with pytest.raises(UsageError, match="another process has made start 1 at the same time"):
        count(spec, TWO, client, now=later)


def test_a_damaged_start_is_a_sentence(run: TinyRun, client: TraceClient) -> None:
    post(client, 1, 2)
    decide(spec_of(run), TWO, client, now=NOW)
    file = Path(run.artifacts) / "triggers/tiny/000001.json"
    file.write_text(file.read_text().replace("letters-tiny-1", "letters-tiny-9"))
    with pytest.raises(DataError, match=r"not a start of a trigger \(its seal is not the digest"):
        decide(spec_of(run), TWO, client, now=NOW)


def test_the_verb_says_what_it_does(run: TinyRun, client: TraceClient, tuneloop: Invoke) -> None:
    def trigger(*options: str) -> tuple[int, str, str]:
        return tuneloop("trigger", run.spec_path, "--new-traces", "2", *options)

    post(client, 1)
    assert trigger() == (0, "tiny: 1 of 2 new traces; nothing to do\n", "")
    post(client, 2)
    code, out, _ = trigger("--dry-run")
    assert (code, out) == (
        0,
        "tiny: 2 of 2 new traces; would build dataset letters-tiny-1 and run it\n",
    )
    found: dict[str, Any] = json.loads(trigger("--dry-run", "--json")[1])
    assert (found["action"], found["dataset_key"], found["run_id"]) == (
        "start",
        "letters-tiny-1",
        None,
    )
    assert not (Path(run.artifacts) / "triggers").exists()


def test_a_spec_that_fails_is_started_once_and_then_waits_for_new_traces(
    run: TinyRun, client: TraceClient, tuneloop: Invoke
) -> None:
    """A real run, whose first stage refuses the dataset."""
    run.change(export__tokenizer=str(run.folder / "tokenizer.model"))
    (run.folder / "tokenizer.model").write_bytes(b"no tokenizer")
    post(client, 1, 2)
    arguments = ("trigger", run.spec_path, "--new-traces", "2")
    code, _, err = tuneloop(*arguments)
    assert code == 12, err
    last = read_last(run.artifacts, "tiny")
    assert last is not None
    assert last.has_failed
    assert (Path(run.artifacts) / "training_runs" / str(last.run_id)).is_dir()
    code, out, _ = tuneloop(*arguments)
    assert (code, out) == (
        0,
        f"tiny: 0 of 2 new traces since {last.start.position}; nothing to do\n",
    )


def test_a_sweep_is_refused(run: TinyRun, tuneloop: Invoke) -> None:
    run.change(sweep={"grid": {"train.steps": [1, 2]}})
    code, _, err = tuneloop("trigger", run.spec_path)
    assert (code, "is a sweep, expected the spec of one run or of rounds" in err) == (2, True), err


@pytest.fixture
def in_world(run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> Callable[[World], None]:
    """Give the spec rounds; return a function that lets them run in a world of planted skills."""
    prompts = {"kind": "dataset", "dataset": "letters-v1"}
    sample = {"prompts": prompts, "max_new_tokens": 8}
    run.change(rounds={"count": 1, "seeds": [0], "sample": sample})
    made = execute.RoundsRun

    def use(world: World) -> None:
        planted = functools.partial(made, open_backend=world.open)
        monkeypatch.setattr(execute, "RoundsRun", planted)

    return use


def test_rounds_are_started_continued_and_then_left_alone(
    run: TinyRun, client: TraceClient, tuneloop: Invoke, in_world: Callable[[World], None]
) -> None:
    def trigger(*options: str) -> tuple[int, str, str]:
        return tuneloop("trigger", run.spec_path, "--new-traces", "2", *options)

    post(client, 1)
    assert trigger() == (0, "tiny: 1 of 2 new traces; nothing to do\n", "")
    post(client, 2)

    def interrupt(stage: str) -> None:
        if stage == "sample":
            raise KeyboardInterrupt

    in_world(World(before_publish=interrupt))
    code, _, err = trigger()
    assert (code, "run again to continue" in err) == (30, True), err
    last = read_last(run.artifacts, "tiny")
    assert last is not None
    rounds_id = str(last.run_id)
    assert len(load_rounds(run.artifacts, rounds_id).members) == 2  # the start, and its samples
    world = World()
    in_world(world)
    code, out, err = trigger("--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["action"], found["run_id"]) == ("continue", rounds_id)
    assert found["dataset_key"] == "letters-tiny-1"
    assert world.ran[0] == "1 sample sample"
    page = Path(run.artifacts) / "rounds" / rounds_id / "report.html"
    assert page.is_file()
    world.ran.clear()
    code, out, _ = trigger()
    assert (code, out.startswith("tiny: 0 of 2 new traces since "), world.ran) == (0, True, [])

    post(client, 3, 4)
    code, out, err = trigger()
    assert code == 0, err
    last = read_last(run.artifacts, "tiny")
    assert last is not None
    assert last.run_id not in (None, rounds_id)
    assert out.endswith(f"; dataset letters-tiny-2, rounds {last.run_id}\n")
    assert "report   " in out


@pytest.mark.parametrize("end", ["failed for good", "failed for a time", "cancelled", "deleted"])
def test_rounds_continue_only_after_failures_that_pass(
    run: TinyRun,
    client: TraceClient,
    tuneloop: Invoke,
    in_world: Callable[[World], None],
    end: str,
) -> None:
    code_of_stage = 20 if end == "failed for a time" else 10
    world = World(fails=lambda member, stage: stage == "sample", exit_code=code_of_stage)
    in_world(world)
    post(client, 1, 2)
    arguments = ("trigger", run.spec_path, "--new-traces", "2")
    code, _, err = tuneloop(*arguments)
    assert (code, "1 of 1 seeds have failed" in err) == (code_of_stage, True), err
    last = read_last(run.artifacts, "tiny")
    assert last is not None
    rounds_id = str(last.run_id)
    found = read_end(run.artifacts, rounds_id, 0)
    assert found is not None
    assert (found.state, found.exit_code) == ("failed", code_of_stage)
    folder = layout.rounds_prefix(run.artifacts, rounds_id)
    if end in ("cancelled", "deleted"):  # while they run
        files.delete_tree(f"{folder}/seed-0")
        assert decide(spec_of_rounds(run), TWO, client, now=NOW).action == "continue"
        if end == "cancelled":
            mark_cancelled(run.artifacts, rounds_id)
        else:
            files.delete_tree(folder)
    world.ran.clear()
    in_world(World())
    code, out, err = tuneloop(*arguments)
    assert code == 0, err
    assert ("nothing to do" in out) == (end != "failed for a time")


def spec_of_rounds(run: TinyRun) -> RunSpec:
    found = load_rounds_file(str(run.spec_path))
    assert found is not None
    return found.spec


def test_a_start_has_all_its_keys(run: TinyRun) -> None:
    start = Start(
        trigger="tiny",
        number=1,
        position="p",
        new_traces=2,
        pattern="v",
        dataset_key="k",
        at=NOW.isoformat(),
    )
    assert triggers.publish_start(start, run.artifacts)
    assert triggers.publish_start(start, run.artifacts)  # a lost acknowledgement
    last = read_last(run.artifacts, "tiny")
    assert last is not None
    assert (last.start, last.run_id, last.has_failed) == (start, None, False)
