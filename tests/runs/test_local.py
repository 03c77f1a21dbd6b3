from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.cancellation import Cancellation
from tuneloop.errors import StageFailed
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs.local import LocalBackend, run_plan
from tuneloop.runs.logs.follow import StageLog
from tuneloop.runs.planning.prepare import prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.runs.sequence import Sequence
from tuneloop.specs.target import Target
from tuneloop.storage import files

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61


@pytest.fixture
def run(tiny_run: Any, store: str, repository: Path) -> Any:
    tiny_run.change(execution__store_url=store)
    return lambda: run_plan(tiny_run.plan())


def test_the_loop_runs_once_and_a_change_runs_only_what_depends_on_it(
    run: Any, tiny_run: Any
) -> None:
    results = run()
    assert [(r.name, r.state) for r in results] == [
        ("export", "done"),
        ("train", "done"),
        ("eval", "done"),
        ("import", "done"),
    ]
    export, train, evaluated, imported = (r.record for r in results)
    assert {export.counts[n] for n in ("traces", "examples")} == {104}
    assert export.counts["excluded"] == 0
    assert train.results["loss_last"] < train.results["loss_first"]
    assert evaluated.counts["items"] == 10
    assert imported.counts == {"traces": 20}

    prefix = layout.run_prefix(tiny_run.artifacts, tiny_run.plan().run_id)
    manifest = json.loads(files.read(f"{prefix}/run_manifest.json"))
    assert manifest["seed"] == 1
    assert manifest["recipe"] == "trace_sft_v1"
    assert manifest["provenance"]["libraries"]["google-tunix"] == "0.1.7"
    for name in ("eval_before.jsonl", "eval_after.jsonl", "delta_report.md", "metrics.jsonl"):
        assert files.exists(f"{prefix}/{name}")

    again = run()
    assert [r.state for r in again] == ["cached"] * 4
    assert sum(r.seconds for r in again) < 1

    tiny_run.change(name="other")
    renamed = run()
    assert tiny_run.plan().run_id.startswith("other-")
    assert [r.state for r in renamed] == ["cached"] * 4
    assert [r.record.content() for r in results] == [r.record.content() for r in renamed]

    tiny_run.change(eval__max_new_tokens=15)
    assert [r.state for r in run()] == ["cached", "cached", "done", "done"]


def test_a_store_that_is_not_running_stops_at_import(tiny_run: Any, repository: Path) -> None:
    tiny_run.change(execution__store_url="http://127.0.0.1:9", train__steps=2)
    with pytest.raises(StageFailed) as caught:
        run_plan(tiny_run.plan())
    assert (caught.value.stage, caught.value.exit_code) == ("import", 20)
    assert "http://127.0.0.1:9" in str(caught.value)
    assert caught.value.exit_code == 20


def test_sigterm_saves_a_checkpoint_and_the_next_run_continues(
    tiny_run: Any, store: str, repository: Path
) -> None:
    """A stage that is asked to stop exits 75 where it can continue from."""
    tiny_run.change(
        execution__store_url=store, train__steps=4000, execution__checkpoint_every_steps=4000
    )
    plan = tiny_run.plan()
    train = plan.stages[1]
    run_plan_until(plan, repository, "export")
    spec_url = f"{tiny_run.folder}/train.json"
    Path(spec_url).write_text(train.model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", "train", "--spec", spec_url],
        cwd=repository,
        stderr=subprocess.PIPE,
        text=True,
    )
    progress = Path(layout.stage_prefix(plan.artifacts, plan.run_id, "train"), "progress.json")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if progress.exists() and json.loads(progress.read_bytes()).get("step", 0) > 3:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "saved; run again to continue" in stderr
    steps = [
        int(p.name)
        for p in (progress.parent / "resume" / "checkpoints").iterdir()
        if p.name.isdigit()
    ]
    rows = (progress.parent / "resume" / "metrics.jsonl").read_bytes().splitlines()
    assert max(steps) == len(rows) > 3


def run_plan_until(plan: Any, repository: Path, name: str) -> None:
    names = [stage.stage for stage in plan.stages]
    kept = plan.stages[: names.index(name) + 1]
    run_plan(dataclasses.replace(plan, stages=kept))


def test_a_killed_stage_is_named_with_its_signal(
    tiny_run: Any, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel's OOM killer leaves neither a message nor a record."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nkill -9 $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(StageFailed, match="export was killed by SIGKILL") as caught:
        run_plan(tiny_run.plan())
    assert caught.value.exit_code == 20


@pytest.fixture
def slow_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every stage process prints a line and then sleeps; its process id is in the returned file."""
    fake, pid = tmp_path / "python", tmp_path / "pid"
    fake.write_text(
        f"#!/bin/sh\necho hello\necho $$ > {pid}.part\nmv {pid}.part {pid}\nexec sleep 60\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    return pid


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def test_a_stage_is_polled_read_and_cancelled(tiny_run: Any, slow_python: Path) -> None:
    backend = LocalBackend(tiny_run.plan())
    assert (backend.poll("export").state, backend.exists("export")) == ("Queued", False)
    assert backend.progress("export") is None
    backend.submit("export", retry_failed=True)
    wait_for(slow_python)
    assert (backend.poll("export").state, backend.exists("export")) == ("Running", True)
    log = StageLog(backend.artifacts, backend.run_id, "export")
    assert [each.line.text for each in log.lines()] == [b"hello"]
    assert backend.cancel_run("train") == Cancellation()  # another stage is left alone
    assert backend.cancel_run() == Cancellation(ended=("process of stage export",))
    assert [each.line.text for each in log.follow() if each] == []  # it has ended
    assert not backend.exists("export")
    with pytest.raises(ProcessLookupError):
        os.kill(int(slow_python.read_text()), 0)


def test_no_process_is_left_when_the_sequence_ends_by_an_error(
    tiny_run: Any, slow_python: Path
) -> None:
    def broken(seconds: float) -> None:
        wait_for(slow_python)
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        Sequence(LocalBackend(tiny_run.plan()), sleep=broken).run(
            retry_failed=True, stop_on_interrupt=False
        )
    with pytest.raises(ProcessLookupError):
        os.kill(int(slow_python.read_text()), 0)


def test_two_runs_at_once_do_the_work_once(tiny_run: Any, store: str, repository: Path) -> None:
    tiny_run.change(execution__store_url=store, train__steps=4)
    command = [sys.executable, "-m", "tuneloop.cli", "run", str(tiny_run.spec_path), "--json"]
    both = [
        subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    summaries = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert summaries[0]["loss"] == summaries[1]["loss"]
    for stage in ("export", "train", "eval", "import"):
        attempts = Path(tiny_run.artifacts).glob(f"training_runs/*/{stage}/attempts/*")
        assert len(list(attempts)) <= 1, stage  # import writes no file at all


def test_a_stage_whose_runner_is_killed_ends_and_the_next_run_continues(
    tiny_run: Any, store: str, repository: Path
) -> None:
    tiny_run.change(execution__store_url=store, train__steps=3000)
    command = [sys.executable, "-m", "tuneloop.cli", "run", str(tiny_run.spec_path)]
    runner = subprocess.Popen(command, cwd=repository, stderr=subprocess.DEVNULL)
    train = Path(tiny_run.artifacts, "training_runs", tiny_run.plan().run_id, "train")
    deadline = time.monotonic() + 60
    while not (train / "resume" / "checkpoints").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    runner.kill()
    runner.wait()
    while "run again to continue" not in (train / "log.txt").read_text():
        assert time.monotonic() < deadline, (train / "log.txt").read_text()
        time.sleep(0.1)
    assert not (train / "record.json").exists()


def test_a_stage_is_started_as_its_container_is(
    tiny_run: Any, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Argv and environment of the very process, beside those of the rendered Job."""
    started: list[tuple[list[str], dict[str, str]]] = []

    class Spy(subprocess.Popen[bytes]):
        def __init__(self, argv: list[str], **options: Any) -> None:
            started.append((argv, options["env"]))
            super().__init__(argv, **options)

    for name in [name for name in os.environ if name.startswith("JAX_")]:
        monkeypatch.delenv(name)  # what people set for JAX themselves would stand
    monkeypatch.setenv("XDG_CACHE_HOME", str(tiny_run.folder / "cache"))
    tiny_run.change(execution__cluster={"namespace": "n"})
    spec = load_run_spec(str(tiny_run.spec_path))
    prepared = prepare(KubernetesBackend, spec, Target(image=IMAGE))
    plan = dataclasses.replace(prepared.plan, stages=prepared.plan.stages[:1])
    monkeypatch.setattr(subprocess, "Popen", Spy)
    run_plan(plan)

    (export,) = [(argv, env) for argv, env in started if "jobs" in argv]
    job = prepared.backend.submission.stages[0].workload
    (container,) = job["spec"]["template"]["spec"]["containers"]
    argv, env = export
    spec_url = argv[argv.index("--spec") + 1]
    assert ["python", *argv[1:]] == [
        *container["command"][:-1],
        spec_url,  # the one place where they differ: /etc/tuneloop/spec.json
    ]
    assert container["command"][-1] == "/etc/tuneloop/spec.json"
    of_the_place = {"HOME", "TUNELOOP_IMAGE_DIGEST"}
    wanted = {e["name"]: e["value"] for e in container["env"] if e["name"] not in of_the_place}
    assert wanted.pop("TUNELOOP_TERMINATION_LOG") == "/dev/termination-log"
    assert Path(env["TUNELOOP_TERMINATION_LOG"]).name == "termination"
    cache = wanted.pop("JAX_COMPILATION_CACHE_DIR").removeprefix("/home/tuneloop/.cache")
    assert env["JAX_COMPILATION_CACHE_DIR"] == f"{tiny_run.folder}/cache{cache}"
    assert wanted
    assert {name: env[name] for name in wanted} == wanted
