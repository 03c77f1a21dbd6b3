"""Test sweeps end to end: on this machine with real stages, and on an in-memory cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.builders import Invoke, TinyRun, steps_done
from tests.k8s.twin import IMAGE, Action, Exit, Running, Twin, publish_record, worker
from tests.runs.notifications.receiver import receiving
from tuneloop import jsonl
from tuneloop.artifacts import layout
from tuneloop.artifacts.sweeps import store as sweep_store
from tuneloop.artifacts.sweeps.store import MemberState
from tuneloop.errors import SpecError, StillRunning
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs.notifications.notifier import notifier_of_submission
from tuneloop.runs.planning.prepare import prepare
from tuneloop.runs.sweep.execute import SweepRun
from tuneloop.runs.sweep.plan import SweepPlan, plan_sweep
from tuneloop.runs.sweep.report import write_report
from tuneloop.runs.sweep.spec_file import load_sweep_file
from tuneloop.specs.target import Target
from tuneloop.storage import files


@pytest.fixture(autouse=True)
def no_wait_for_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pods of the in-memory cluster do not move while a sequence closes."""
    monkeypatch.setattr("tuneloop.k8s.backend.LAST_LINES_SECONDS", 0.0)


RATES = {"train.optimizer.learning_rate": [0.02, 0.01, 0.005]}


def test_a_sweep_on_this_machine_shares_stages_and_ends_with_a_table_and_a_picture(
    tiny_run: TinyRun, tuneloop: Invoke, store: str
) -> None:
    grid = {"train.optimizer.learning_rate": [0.02, 0.01], "eval.max_new_tokens": [8, 9]}
    tiny_run.change(execution__store_url=store, train__steps=2, sweep={"grid": grid})
    code, out, err = tuneloop("plan", tiny_run.spec_path, "--json")
    assert code == 0, err
    plan = json.loads(out)
    sweep_id = plan["sweep_id"]
    stages = [(s["stage"], len(s["members"])) for s in plan["stages"]]
    assert sorted(stages) == sorted(
        [("export", 4)] + [("train", 2)] * 2 + [("eval", 1)] * 4 + [("import", 1)] * 4
    )
    code, out, _ = tuneloop("plan", tiny_run.spec_path)
    assert (code, max(map(len, out.splitlines())) <= 80) == (0, True)
    assert "11 stages to run for 16 stages of members" in out

    code, out, err = tuneloop("run", tiny_run.spec_path)
    assert code == 0, err
    folder = Path(layout.sweep_prefix(tiny_run.artifacts, sweep_id))
    report = json.loads((folder / "report.json").read_text())
    assert [m["state"] for m in report["members"]] == ["done"] * 4
    assert [m["values"] for m in report["members"]] == [
        {"eval.max_new_tokens": e, "train.optimizer.learning_rate": r}
        for e in (8, 9)
        for r in (0.02, 0.01)
    ]
    assert all(
        m["after"]["low"] <= m["after"]["share"] <= m["after"]["high"] for m in report["members"]
    )
    assert [m["steps"] for m in report["members"]] == [2] * 4

    def attempts() -> list[int]:
        return [
            len(list(Path(tiny_run.artifacts).glob(f"training_runs/*/{stage}/attempts/*")))
            for stage in ("export", "train", "eval")
        ]

    assert attempts() == [1, 2, 4]
    assert (folder / "report.md").read_text().count("| done |") == 4
    picture = ElementTree.fromstring((folder / "report.svg").read_text())
    assert len(picture.findall(".//{*}polyline")) == 4

    code, again, err = tuneloop("run", tiny_run.spec_path)  # nothing is run twice
    assert (code, again) == (0, out), err
    assert attempts() == [1, 2, 4]
    at = ("--artifacts", tiny_run.artifacts)
    code, out, _ = tuneloop("status", sweep_id, *at, "--json")
    assert [m["state"] for m in json.loads(out)["members"]] == ["done"] * 4
    code, out, _ = tuneloop("cancel", sweep_id, *at)
    assert (code, out) == (0, f"{sweep_id}: nothing is left to cancel\n")

    (file,) = Path(tiny_run.artifacts).glob("training_runs/*/export/attempts/*/examples-*.jsonl")
    file.write_bytes(file.read_bytes().replace(b"{", b"["))  # of the same size
    assert tuneloop("run", tiny_run.spec_path, "--verify-below", "0")[0] == 0
    code, out, err = tuneloop("run", tiny_run.spec_path, "--verify-below", "0", "--verify")
    assert (code != 0, "examples-0" in out + err) == (True, True), (code, out, err)


def test_a_bad_member_stops_early_here_and_cancel_ends_the_sweep_of_another_process(
    tiny_run: TinyRun, tuneloop: Invoke, store: str, repository: Path
) -> None:
    """The third member would train for minutes; the second one is stopped by the rule."""
    members = [
        {"train.steps": 8},
        {"train.steps": 4000, "train.optimizer.learning_rate": 1e-9},
        {"train.steps": 4001},
    ]
    stop = {"min_members": 1, "min_steps": 4}
    tiny_run.change(
        execution__store_url=store,
        execution__checkpoint_every_steps=4000,
        export__validation_fraction=0.2,
        train__validation={"every_steps": 4},
        train__optimizer={"learning_rate": 0.02, "schedule": "constant", "warmup_steps": 0},
        sweep={"list": members, "early_stop": stop},
    )
    _, out, _ = tuneloop("plan", tiny_run.spec_path, "--json")
    plan = json.loads(out)
    at = ("--artifacts", tiny_run.artifacts)
    command = [sys.executable, "-m", "tuneloop.cli", "run", str(tiny_run.spec_path)]
    runner = subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True)
    try:
        second, third = (
            Path(layout.stage_prefix(tiny_run.artifacts, member["run_id"], "train"))
            for member in plan["members"][1:]
        )
        until = time.monotonic() + 240
        while steps_done(third) < 4:
            assert time.monotonic() < until
            assert runner.poll() is None
            time.sleep(0.1)
        code, out, _ = tuneloop("cancel", plan["sweep_id"], *at)
        assert code == 0
        assert "of stage train" in out
        assert runner.wait(1) == 30
    finally:
        runner.kill()
        _, err = runner.communicate()
    assert "member   2: stopped early: validation loss " in err
    assert list((second / "resume" / "checkpoints").iterdir())  # what it had is kept
    code, out, _ = tuneloop("status", plan["sweep_id"], *at, "--json")
    found = json.loads(out)["members"]
    assert [member["state"] for member in found] == ["done", "stopped early", "to run"]
    assert 4 <= found[1]["steps"] < 4000
    code, out, _ = tuneloop("cancel", plan["sweep_id"], *at)
    assert (code, out) == (0, f"{plan['sweep_id']}: nothing is left to cancel\n")


def planned(run: TinyRun, **sweep: Any) -> SweepPlan[KubernetesBackend]:
    sweep = {"grid": RATES, **sweep}
    run.change(sweep=sweep, execution__cluster={"namespace": "n", "image": IMAGE})
    found = load_sweep_file(str(run.spec_path))
    assert found is not None
    return plan_sweep(
        found, str(run.spec_path), lambda spec: prepare(KubernetesBackend, spec, Target())
    )


class SharedTwin(Twin):
    """A cluster that several threads use; it advances with real time."""

    def __init__(self, act: Callable[[Any], Action] = lambda pod: Running()) -> None:
        super().__init__(act)
        self.lock = threading.RLock()

    def sleep(self, seconds: float) -> None:
        time.sleep(0.002)
        with self.lock:
            super().sleep(seconds)


def locked(twin: SharedTwin) -> Any:
    """Return the cluster with one call at a time, as an API server has."""

    class Locked:
        def __getattr__(self, name: str) -> Any:
            found = getattr(twin, name)

            def call(*arguments: Any, **options: Any) -> Any:
                with twin.lock:
                    return found(*arguments, **options)

            return call

    return Locked()


def execution(made: SweepPlan[KubernetesBackend], twin: SharedTwin, **options: Any) -> SweepRun:
    prepared = {each.run_id: each.prepared for each in made.members}

    def open_backend(member: sweep_store.Member) -> KubernetesBackend:
        submission = prepared[member.run_id].backend.submission
        return KubernetesBackend(submission, lambda: locked(twin), poll_seconds=0.01)

    manifest = options.pop("manifest", made.manifest())
    sweep_store.save_sweep(manifest, made.artifacts)
    options = {"parallelism": made.settings.parallelism, "sleep": twin.sleep, **options}
    return SweepRun(manifest, made.artifacts, open_backend, **options)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_members_on_a_cluster_share_a_stage_also_at_the_same_time(
    tiny_run: TinyRun, parallelism: int
) -> None:
    made = planned(tiny_run, parallelism=parallelism)
    twin = SharedTwin()
    twin.act = worker(twin)
    states = execution(made, twin).run()
    assert [each.state for each in states] == ["done"] * 3
    assert twin.made["Job"] == 1 + 3 * 3
    assert [each.run_id for each in states] == [each.run_id for each in made.members]
    execution(made, twin).run()
    assert twin.made["Job"] == 1 + 3 * 3


def test_a_failed_member_stops_no_other_and_run_again_retries_it_alone(tiny_run: TinyRun) -> None:
    made = planned(tiny_run)
    twin = SharedTwin()
    act, second = worker(twin), made.members[1].run_id
    broken = True

    def sometimes(pod: Any) -> Action:
        spec = twin.stage_of(pod)
        return (
            Exit(65, "bad row")
            if broken and spec.run_id == second and spec.stage == "train"
            else act(pod)
        )

    twin.act = sometimes
    states = execution(made, twin).run()
    assert [each.state for each in states] == ["done", "failed", "done"]
    assert "bad row" in states[1].cause
    rows, url = write_report(made.manifest(), made.artifacts)
    assert [row.state for row in rows] == ["done", "failed", "done"]
    assert "bad row" in files.read(url).decode()
    jobs = twin.made["Job"]
    waited = execution(made, twin, retry_failed=False).run()  # `wait` leaves it
    assert (waited[1].state, twin.made["Job"]) == ("failed", jobs)
    broken = False
    states = execution(made, twin).run()
    assert [each.state for each in states] == ["done"] * 3
    assert twin.made["Job"] == jobs + 3


def write_losses(made: SweepPlan[Any], number: int, losses: list[float]) -> None:
    run_id = made.members[number - 1].run_id
    prefix = layout.stage_prefix(made.artifacts, run_id, "train")
    rows = [{"step": at, "loss": x, "validation_loss": x} for at, x in enumerate(losses)]
    files.write(f"{prefix}/resume/metrics.jsonl", b"".join(map(jsonl.dump_line, rows)))


def test_a_member_with_a_high_validation_loss_is_stopped_and_stays_so(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuneloop.runs.sweep.execute.LOOK_SECONDS", 0.0)
    tiny_run.change(
        export__validation_fraction=0.2, train__validation={"every_steps": 1, "keep": "last"}
    )
    made = planned(tiny_run, early_stop={"min_members": 2})
    write_losses(made, 1, [9, 5, 4])
    write_losses(made, 2, [9, 5, 4])
    write_losses(made, 3, [9, 8, 7])
    twin = SharedTwin()
    act, last = worker(twin), made.members[2].run_id

    def slow(pod: Any) -> Action:
        spec = twin.stage_of(pod)
        return Running() if (spec.run_id, spec.stage) == (last, "train") else act(pod)

    def publish(pod: Any) -> Action:
        spec = twin.stage_of(pod)
        if spec.stage == "train" and spec.run_id != last:
            losses = layout.stage_prefix(made.artifacts, spec.run_id, "train")
            kept = files.read(f"{losses}/resume/metrics.jsonl")
            publish_record(spec, content=kept, name="metrics.jsonl")
            return Exit(0)
        return slow(pod)

    twin.act = publish
    states = execution(made, twin).run()
    assert [each.state for each in states] == ["done", "done", "stopped early"]
    assert states[2].cause == (
        "validation loss 7 after step 2 is above 4, the median of 2 other members"
    )
    assert twin.one("Pod") == [] or all(last not in name for name in twin.one("Pod"))
    jobs = twin.made["Job"]
    assert execution(made, twin).run()[2].state == "stopped early"
    assert twin.made["Job"] == jobs
    assert write_report(made.manifest(), made.artifacts)[0][2].steps == 2
    # Without the rule, the member continues.
    free = made.manifest().model_copy(update={"settings": {"grid": RATES}})
    twin.act = act
    assert execution(made, twin, manifest=free).run()[2].state == "done"


def test_a_used_up_budget_stops_members_and_a_higher_one_continues(tiny_run: TinyRun) -> None:
    made = planned(tiny_run, budget_chip_hours=1)
    manifest = made.manifest()
    spent = MemberState(run_id=made.members[0].run_id, state="failed", chip_hours=0.999999999)
    sweep_store.save_state(spent, made.artifacts, made.sweep_id)
    chips = [m.model_copy(update={"chips": {"train": 8}}) for m in manifest.members]
    manifest = manifest.model_copy(update={"members": chips})
    twin = SharedTwin()
    twin.act = worker(twin)
    states = execution(made, twin, manifest=manifest).run()
    assert [each.state for each in states] == ["out of budget"] * 3
    assert "1 chip-hours are used up, sweep.budget_chip_hours is 1; raise it" in states[1].cause
    assert states[0].chip_hours > 1
    more = manifest.model_copy(update={"settings": {"grid": RATES, "budget_chip_hours": 9}})
    states = execution(made, twin, manifest=more).run()
    assert [each.state for each in states] == ["done"] * 3
    assert all(each.chip_hours > 0 for each in states)


def test_webhooks_get_the_events_of_each_member_with_ids_that_stay(tiny_run: TinyRun) -> None:
    with receiving() as receiver:
        tiny_run.change(execution__notifications=[{"url": receiver.url}])
        made = planned(tiny_run)
        prepared = {each.run_id: each.prepared for each in made.members}
        warnings: list[str] = []
        twin = SharedTwin()
        act, second = worker(twin), made.members[1].run_id

        def breaks(pod: Any) -> Action:
            spec = twin.stage_of(pod)
            is_broken = (spec.run_id, spec.stage) == (second, "eval")
            return Exit(65, "bad row") if is_broken else act(pod)

        twin.act = breaks
        for _ in range(2):
            execution(
                made,
                twin,
                retry_failed=False,
                notifier=lambda member: notifier_of_submission(
                    prepared[member.run_id].backend.submission, warnings.append
                ),
            ).run()
        assert warnings == []
        told = {(each.json["id"], each.json["data"]["run_id"]) for each in receiver.requests}
        types = Counter(receiver.types())
    assert types["run.failed eval"] > 0
    per_run = Counter(run_id for _, run_id in told)
    assert per_run == {each.run_id: 3 if each.run_id == second else 5 for each in made.members}


def test_a_cancelled_sweep_starts_no_other_member(tiny_run: TinyRun) -> None:
    made = planned(tiny_run)
    twin = SharedTwin()
    act = worker(twin)

    def cancelled(pod: Any) -> Action:
        sweep_store.mark_cancelled(made.artifacts, made.sweep_id)
        return act(pod)

    twin.act = cancelled
    with pytest.raises(KeyboardInterrupt):
        execution(made, twin).run()
    assert twin.made["Job"] <= 2
    twin.act = act
    assert [each.state for each in execution(made, twin).run()] == ["done"] * 3


def test_waiting_ends_after_its_time_and_leaves_the_members_running(tiny_run: TinyRun) -> None:
    made = planned(tiny_run, parallelism=2)
    twin = SharedTwin()
    run = execution(made, twin, retry_failed=False, stop_on_interrupt=False)
    with pytest.raises(StillRunning, match="3 of 3 members have not ended; call `wait` again"):
        run.run(for_seconds=0.5)
    assert twin.one("Job")
    twin.act = worker(twin)
    assert [each.state for each in execution(made, twin).run()] == ["done"] * 3


def test_hundreds_of_members_are_planned_and_too_many_are_refused(tiny_run: TinyRun) -> None:
    since = time.monotonic()
    made = planned(tiny_run, grid={"seed": list(range(200))}, max_members=1000)
    assert len({each.run_id for each in made.members}) == 200
    assert time.monotonic() - since < 60
    with pytest.raises(SpecError, match="1001 members, expected at most"):
        planned(tiny_run, grid={"seed": list(range(1001))}, max_members=1000)
