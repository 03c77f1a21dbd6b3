"""Test a sweep that a Job in the cluster runs, on the in-memory cluster."""

from __future__ import annotations

import base64
import functools
import lzma
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import submit
from tests.builders import TinyRun
from tests.k8s.twin import IMAGE, Exit, worker
from tests.runs.sweep.test_sweep import RATES, SharedTwin, locked
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.submission import load_submission
from tuneloop.artifacts.sweeps import store, submission
from tuneloop.artifacts.sweeps.submission import SweepSubmission, read_sweep_submission
from tuneloop.cli.control import cancel, detached
from tuneloop.cli.shared.option_groups import ClusterOptions, KnownRun, RunOptions
from tuneloop.errors import DataError, SpecError
from tuneloop.k8s.orphans import find_orphans
from tuneloop.k8s.sweeps import sweep_files
from tuneloop.runs.sweep.execute import SweepRun
from tuneloop.stages.pipelines import TRAINING_STAGES
from tuneloop.storage import files

CONFIG_MAP_BYTES = 2**20


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> SharedTwin:
    """A cluster that every client of this test connects to; its time advances with each poll."""
    monkeypatch.setattr("tuneloop.k8s.backend.LAST_LINES_SECONDS", 0.0)
    found = SharedTwin()
    found.act = worker(found)
    for module in ("tuneloop.k8s.backend", "jobs.submit"):
        monkeypatch.setattr(f"{module}.connect", lambda namespace, target: locked(found))
    monkeypatch.setattr(ClusterOptions, "connect", lambda self, namespace: locked(found))
    monkeypatch.setattr(submit, "SweepRun", functools.partial(SweepRun, sleep=found.sleep))
    return found


def submitted(run: TinyRun, capsys: pytest.CaptureFixture[str], **sweep: Any) -> SweepSubmission:
    run.change(sweep={"grid": RATES, "parallelism": 2, **sweep})
    run.change(execution__cluster={"namespace": "n", "image": IMAGE})
    options = RunOptions(str(run.spec_path))
    found = options.load_sweep()
    assert found is not None
    made, value = detached.plan_for_cluster(options, found, ClusterOptions())
    detached.submit_detached(made, value, as_json=False)
    capsys.readouterr()
    return value


def mounted(twin: SharedTwin, value: SweepSubmission, folder: Path) -> Path:
    """Write what the submitter's pod finds in its ConfigMap."""
    (file,) = twin.objects["ConfigMap", f"{value.sweep.sweep_id}-submit"]["binaryData"].items()
    path = folder / file[0]
    path.write_bytes(base64.b64decode(file[1]))
    return path


def pod(twin: SharedTwin, value: SweepSubmission, folder: Path) -> int:
    """Run the command of the submitter's pod."""
    return submit.main(["--sweep", str(mounted(twin, value, folder)), "--poll-seconds", "0.01"])


def without_submitters(twin: SharedTwin) -> list[str]:
    return [name for name in twin.one("Job") if not name.endswith("-submit")]


def test_the_job_runs_all_members_and_again_does_nothing(
    tiny_run: TinyRun, twin: SharedTwin, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    value = submitted(tiny_run, capsys)
    sweep_id = value.sweep.sweep_id
    (job,) = [twin.objects["Job", name] for name in twin.one("Job")]
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[-2:] == ["--sweep", "/etc/tuneloop/sweep.json.xz"]
    twin.objects.pop(("Job", job["metadata"]["name"]))  # the controllers must not run its pod
    assert pod(twin, value, tmp_path) == 30  # without its Job, nothing is created
    assert without_submitters(twin) == []
    twin.objects["Job", job["metadata"]["name"]] = job
    job["spec"]["suspend"] = True
    assert pod(twin, value, tmp_path) == 0
    states = [store.read_state(value.artifacts, sweep_id, m.run_id) for m in value.manifest.members]
    assert [each.state for each in states if each] == ["done"] * 3
    assert len(without_submitters(twin)) == 1 + 3 * 3
    owners = {
        twin.objects["Job", name]["metadata"]["ownerReferences"][0]["uid"]
        for name in without_submitters(twin)
    }
    assert owners == {job["metadata"]["uid"]}
    prefix = layout.sweep_prefix(value.artifacts, sweep_id)
    assert files.read(f"{prefix}/report.md").count(b"| done |") == 3
    made = twin.made["Job"]
    assert pod(twin, value, tmp_path) == 0
    assert twin.made["Job"] == made
    submitted(tiny_run, capsys)
    assert twin.made["Job"] == made  # every member is done


def test_a_failed_member_fails_the_job_and_is_retried_by_another_submit_alone(
    tiny_run: TinyRun, twin: SharedTwin, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    act, bad = twin.act, ""

    def sometimes(pod: Any) -> Any:
        spec = twin.stage_of(pod)
        is_bad = spec.run_id == bad and spec.stage == "train"
        return Exit(65, "bad row") if is_bad else act(pod)

    twin.act = lambda pod: sometimes(pod) if pod["metadata"]["labels"].get(STAGE) else act(pod)
    value = submitted(tiny_run, capsys)
    bad = value.manifest.members[1].run_id
    suspend_submitter(twin)
    assert pod(twin, value, tmp_path) == 20
    made = twin.made["Job"]
    assert pod(twin, value, tmp_path) == 20  # a restarted pod leaves what has failed
    assert twin.made["Job"] == made
    bad = ""
    end_submitter(twin)
    submitted(tiny_run, capsys)
    suspend_submitter(twin)
    assert pod(twin, value, tmp_path) == 0
    known = store.read_state(
        value.artifacts, value.sweep.sweep_id, value.manifest.members[1].run_id
    )
    assert known is not None
    assert known.state == "done"


STAGE = "tuneloop.dev/stage"


def suspend_submitter(twin: SharedTwin) -> None:
    """Keep the controllers of the twin from starting the submitter's pod, which the test is."""
    for (kind, name), found in twin.objects.items():
        if kind == "Job" and name.endswith("-submit"):
            found["spec"]["suspend"] = True


def end_submitter(twin: SharedTwin) -> None:
    for (kind, name), found in twin.objects.items():
        if kind == "Job" and name.endswith("-submit"):
            found["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}


def test_cancel_ends_the_job_and_a_restarted_pod_stays_cancelled(
    tiny_run: TinyRun, twin: SharedTwin, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    value = submitted(tiny_run, capsys)
    suspend_submitter(twin)
    sweep_id, artifacts = value.sweep.sweep_id, value.artifacts
    file = mounted(twin, value, tmp_path)
    job = dict(twin.objects["Job", f"{sweep_id}-submit"])
    read_sweep_submission(str(file)).publish(job["metadata"]["uid"])
    cancel.cancel(KnownRun(sweep_id, artifacts), ClusterOptions(), None, 5.0)
    assert f"ended Job {sweep_id}-submit" in capsys.readouterr().out
    assert twin.one("Job") == twin.one("Pod") == []
    assert submit.main(["--sweep", str(file)]) == 30
    twin.objects["Job", f"{sweep_id}-submit"] = job
    assert submit.main(["--sweep", str(file), "--poll-seconds", "0.01"]) == 30
    assert without_submitters(twin) == []
    assert store.is_cancelled(artifacts, sweep_id)
    # Another Job, such as that of another `kubectl apply`, takes the cancellation back.
    job["metadata"] = {**job["metadata"], "uid": "another"}
    assert submit.main(["--sweep", str(file), "--poll-seconds", "0.01"]) == 0


def test_a_rendered_folder_alone_runs_a_sweep(
    tiny_run: TinyRun, twin: SharedTwin, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tiny_run.change(sweep={"grid": RATES, "parallelism": 3})
    tiny_run.change(execution__cluster={"namespace": "n", "image": IMAGE})
    options = RunOptions(str(tiny_run.spec_path))
    found = options.load_sweep()
    assert found is not None
    _, value = detached.plan_for_cluster(options, found)
    rendered = sweep_files(value)
    assert sorted(rendered) == ["Kustomization", "account.yaml", "submit.yaml"]
    assert "# Compressed with xz" in rendered["submit.yaml"]
    for name in ("account.yaml", "submit.yaml"):
        for document in yaml.safe_load_all(rendered[name]):
            is_job = document["kind"] == "Job"
            twin.create(document) if is_job else twin.apply(document)
    suspend_submitter(twin)
    assert pod(twin, value, tmp_path) == 0
    assert store.find_sweep(value.artifacts, value.sweep.sweep_id) == value.manifest
    run_id = value.manifest.members[0].run_id
    assert load_submission(value.artifacts, run_id) == value.members[0]


def test_many_members_fit_into_a_config_map_and_too_many_are_refused(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_run.change(sweep={"grid": {"seed": list(range(40))}, "parallelism": 8})
    tiny_run.change(execution__cluster={"namespace": "n", "image": IMAGE})
    options = RunOptions(str(tiny_run.spec_path))
    found = options.load_sweep()
    assert found is not None
    _, value = detached.plan_for_cluster(options, found)
    assert len(value.dump()) < CONFIG_MAP_BYTES / 10
    deadline = value.sweep.submitter_job["spec"]["activeDeadlineSeconds"]
    one = value.members[0].submitter_job["spec"]["activeDeadlineSeconds"]
    # Another member may have more steps than the first, so each stage counts a day at least.
    assert deadline == 5 * len(TRAINING_STAGES) * 86_400 > 5 * one
    monkeypatch.setattr(submission, "MOST_BYTES", 1000)
    with pytest.raises(SpecError, match=r"its 40 members take .* split the sweep"):
        value.dump()


@pytest.mark.parametrize("data", [b"", b"{}", lzma.compress(b"{}"), lzma.compress(b'{"a":1}')[:30]])
def test_a_broken_file_is_named(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "sweep.json.xz"
    assert submit.main(["--sweep", str(file)]) == 66
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"sweep.json.xz: not a sweep: .*; submit the sweep again"):
        read_sweep_submission(str(file))


def test_the_submitter_of_a_sweep_is_an_orphan_once_the_sweep_is_gone(
    tiny_run: TinyRun, twin: SharedTwin, capsys: pytest.CaptureFixture[str]
) -> None:
    value = submitted(tiny_run, capsys)
    end_submitter(twin)
    twin.seconds += 30 * 86_400
    at: dict[str, Any] = {"artifacts": value.artifacts, "days": 7.0, "kinds": ["Job"]}
    names = [each.name for each in find_orphans(twin, runs=[], **at)]
    assert names == [f"{value.sweep.sweep_id}-submit"] * 2
    assert find_orphans(twin, runs=[value.sweep.sweep_id], **at) == []
