"""Run the loop with a real API server and Job controller; pods run on the simulated node."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun, steps_done
from tests.cluster import controlplane
from tests.cluster.controlplane import wait_until
from tests.cluster.node import Node
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.usage.held import read_held
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.k8s.rendering.manifests import dump_files, stage_files
from tuneloop.k8s.watch import StageWatch
from tuneloop.runs.local import run_plan
from tuneloop.runs.planning.any_plan import AnyPlan
from tuneloop.runs.planning.prepare import Prepared, prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.runs.sequence import Sequence
from tuneloop.specs.sampling import AnyRunSpec
from tuneloop.specs.target import Target
from tuneloop.stages.pipelines import TRAINING_STAGES
from tuneloop.storage import files

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61
KILLS = 10
SMALL = {"cpu": "1", "memory": "1Gi", "ephemeral_storage": "1Gi"}


def contents(plan: AnyPlan) -> dict[str, Any]:
    """Read every file that a run's records name; return their digests, without timings."""
    found: dict[str, Any] = {}
    for stage in TRAINING_STAGES:
        record = records.find(plan.artifacts, plan.run_id, stage)
        assert record is not None
        for file in record.outputs:
            records.read_output(file, plan.artifacts)
        counts = {k: v for k, v in record.counts.items() if k != "resumed_from_step"}
        found[stage] = (record.fingerprint, record.content(), record.results, counts)
    return found


def placed(
    run: TinyRun, namespace: str, store: str, repository: Path, **cluster: Any
) -> Prepared[KubernetesBackend]:
    """Plan the run for the test cluster, on small machines."""
    stages = {stage: SMALL for stage in TRAINING_STAGES}
    place = {"namespace": namespace, "image": IMAGE, **stages, **cluster}
    run.change(execution__cluster=place, execution__store_url=store)
    return prepared(load_run_spec(str(run.spec_path)), repository)


def prepared(spec: AnyRunSpec, repository: Path) -> Prepared[KubernetesBackend]:
    return prepare(KubernetesBackend, spec, Target(image=IMAGE))


def elsewhere(
    prepared_: Prepared[KubernetesBackend], spec: AnyRunSpec, folder: Path, repository: Path
) -> Prepared[KubernetesBackend]:
    """Return the same run with artifacts in another folder, which contains only the dataset."""
    source = Path(prepared_.plan.artifacts)
    shutil.copytree(source / "datasets", folder / "datasets")
    execution = spec.execution.model_copy(update={"artifacts": str(folder)})
    other = prepared(spec.model_copy(update={"execution": execution}), repository)
    assert other.plan.run_id == prepared_.plan.run_id
    return other


@pytest.fixture
def account(cluster: controlplane.Cluster, namespace: str) -> None:
    """Create the account of the stages, which the base of a cluster normally contains."""
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)


@pytest.mark.usefixtures("node", "account")
def test_a_run_ends_in_the_same_bytes_as_on_this_machine(
    cluster: controlplane.Cluster,
    namespace: str,
    tiny_run: TinyRun,
    tmp_path: Path,
    repository: Path,
    store: str,
) -> None:
    here = placed(tiny_run, namespace, store, repository)
    there = elsewhere(here, here.plan.spec, tmp_path / "cluster", repository)
    run_plan(here.plan)

    submission = there.backend.submission
    client = Cluster.connect(namespace, kubeconfig=str(cluster.kubeconfig))
    backend = KubernetesBackend(submission, lambda: client, poll_seconds=0.2)
    results = Sequence(backend).run(retry_failed=True, stop_on_interrupt=True)
    assert [(r.name, r.state) for r in results] == [(stage, "done") for stage in TRAINING_STAGES]
    assert contents(here.plan) == contents(there.plan)
    for name in ("eval_before.jsonl", "samples.jsonl", "delta_report.md", "delta_report.json"):
        one, two = (
            files.read(f"{layout.run_prefix(p.plan.artifacts, p.plan.run_id)}/{name}")
            for p in (here, there)
        )
        assert one == two
    wait_until(lambda: succeeded(cluster, namespace) == [1] * 4, "every Job has succeeded")
    again = Sequence(backend).run(retry_failed=True, stop_on_interrupt=True)
    assert [r.state for r in again] == ["cached"] * 4
    for result in results:
        prefix = layout.stage_prefix(there.plan.artifacts, there.plan.run_id, result.name)
        held = read_held(prefix)
        assert held is not None
        (pod,) = held.pods.values()
        assert pod.ended_at is not None and not pod.failed
        # The server's times have whole seconds.
        assert result.record.seconds - 2 < held.held_pod_seconds < result.seconds + 30
        assert 0 <= held.queue_seconds < result.seconds + 1


def succeeded(cluster: controlplane.Cluster, namespace: str) -> list[int]:
    jobs = cluster.get("jobs", "-n", namespace)["items"]
    return [job.get("status", {}).get("succeeded", 0) for job in jobs]


@pytest.fixture
def start_verb(cluster: controlplane.Cluster, repository: Path) -> Iterator[Callable[..., Any]]:
    """Start a verb in a separate process against the test cluster."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        options = ["--kubeconfig", str(cluster.kubeconfig)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tuneloop.cli", *map(str, arguments), *options],
            cwd=repository,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("node", "account")
def test_a_submitter_that_is_killed_ten_times_changes_nothing(
    cluster: controlplane.Cluster,
    namespace: str,
    tiny_run: TinyRun,
    repository: Path,
    store: str,
    start_verb: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Half of the kills fall on `run`, half on `wait`, at random moments; stages are shared."""
    shared = {"export": {**SMALL, "shard_count": 3}, "eval": {**SMALL, "shard_count": 2}}
    tiny_run.change(export__shard_examples=20)
    there = placed(tiny_run, namespace, store, repository, **shared)
    spec = there.plan.spec
    here = elsewhere(there, spec, tmp_path / "local", repository)
    run_plan(here.plan)

    rng = random.Random(0)
    run = ["run", tiny_run.spec_path, "--backend", "cluster", "--poll-seconds", "0.2"]
    wait = ["wait", there.plan.run_id, "--artifacts", there.plan.artifacts]
    for number in range(KILLS):
        verb = start_verb(*(wait if number % 2 else run))
        try:
            verb.wait(1.0 + rng.random() * 1.5)  # starting takes about one
        except subprocess.TimeoutExpired:
            verb.send_signal(signal.SIGKILL)
        verb.communicate()
    last = start_verb(*run, "--json")
    out, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert json.loads(out)["run_id"] == there.plan.run_id
    assert contents(here.plan) == contents(there.plan)
    jobs = cluster.get("jobs", "-n", namespace)["items"]
    assert len(jobs) == 4  # adopted, never doubled
    first, *_ = [line for line in err.splitlines() if line.startswith("cluster ")]
    assert f"context test, namespace {namespace}, server https://127.0.0.1:" in first


@pytest.mark.usefixtures("account")
def test_a_detached_run_goes_by_itself_with_rights_for_that_and_nothing_else(
    cluster: controlplane.Cluster,
    namespace: str,
    node: Node,
    tiny_run: TinyRun,
    repository: Path,
    store: str,
    start_verb: Callable[..., Any],
) -> None:
    there = placed(tiny_run, namespace, store, repository)
    submit = start_verb("submit", tiny_run.spec_path, "--detach", "--json")
    out, err = submit.communicate(timeout=60)
    assert submit.returncode == 0, err
    assert json.loads(out) == {"run_id": there.plan.run_id, "stage": "export", "detached": True}

    def ended() -> bool:
        found = cluster.get("job", f"{there.plan.run_id}-submit", "-n", namespace)
        return bool(found.get("status", {}).get("conditions"))

    wait_until(ended, "the submitter has ended", 120)
    submitter = cluster.get("job", f"{there.plan.run_id}-submit", "-n", namespace)
    log = cluster.kubectl("logs", "-n", namespace, f"job/{there.plan.run_id}-submit").stdout
    assert submitter["status"].get("succeeded") == 1, log
    contents(there.plan)
    assert submitter["status"].get("failed", 0) == 0
    stages = cluster.get("jobs", "-n", namespace, "-l", "tuneloop.dev/stage")["items"]
    for job in stages:
        (owner,) = job["metadata"]["ownerReferences"]
        assert owner["uid"] == submitter["metadata"]["uid"]
    for account, verb, resource, expected in (
        ("tuneloop-submitter", "create", "jobs", "yes"),
        ("tuneloop-submitter", "get", "secrets", "no"),
        ("tuneloop-submitter", "create", "pods", "no"),
        ("tuneloop-submitter", "delete", "configmaps", "no"),
        ("tuneloop-stage", "get", "pods", "no"),
    ):
        who = f"--as=system:serviceaccount:{namespace}:{account}"
        said = cluster.kubectl("auth", "can-i", verb, resource, who, "-n", namespace)
        assert said.stdout.strip() == expected, (account, verb, resource)
    assert node.processes() == 0


@pytest.mark.usefixtures("account")
def test_cancel_takes_all_that_a_detached_run_holds(
    cluster: controlplane.Cluster,
    namespace: str,
    node: Node,
    tiny_run: TinyRun,
    repository: Path,
    store: str,
    start_verb: Callable[..., Any],
) -> None:
    there = placed(tiny_run.change(train__steps=100_000), namespace, store, repository)
    run_id, artifacts = there.plan.run_id, there.plan.artifacts
    assert start_verb("submit", tiny_run.spec_path, "--detach").wait(60) == 0
    train = Path(artifacts) / "training_runs" / run_id / "train"
    wait_until(lambda: steps_done(train), "a step is done", 60)
    status = start_verb("status", run_id, "--artifacts", artifacts, "--json")
    stages = {s["name"]: s["state"] for s in json.loads(status.communicate()[0])["stages"]}
    assert stages == {"export": "done", "train": "Running", "eval": "to run", "import": "to run"}

    cancel = start_verb("cancel", run_id, "--artifacts", artifacts)
    out, _ = cancel.communicate(timeout=60)
    assert f"ended Job {run_id}-submit" in out
    # Cancelling waits: no pod and no Job is left once it returns.
    assert node.processes() == 0
    assert not cluster.get("pods", "-n", namespace)["items"]
    assert not cluster.get("jobs", "-n", namespace)["items"]
    wait_until(
        lambda: not cluster.get("configmaps", "-n", namespace, "-l", "tuneloop.dev/run")["items"],
        "the specs went with their Jobs",
    )
    # SIGTERM came with a grace period, in which the training state was saved.
    assert list((train / "resume" / "checkpoints").iterdir())


@pytest.mark.usefixtures("account")
def test_asked_to_stop_run_frees_what_the_stage_holds_and_run_again_continues(
    cluster: controlplane.Cluster,
    namespace: str,
    node: Node,
    tiny_run: TinyRun,
    repository: Path,
    store: str,
    start_verb: Callable[..., Any],
) -> None:
    there = placed(tiny_run.change(train__steps=400), namespace, store, repository)
    run = ["run", tiny_run.spec_path, "--backend", "cluster", "--poll-seconds", "0.2", "--json"]
    first = start_verb(*run)
    folder = Path(there.plan.artifacts) / "training_runs" / there.plan.run_id / "train"
    wait_until((folder / "progress.json").exists, "the training has begun", 60)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 30, err
    assert "run again to continue" in err
    wait_until(lambda: node.processes() == 0, "the stage has stopped")
    second = start_verb(*run)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    states = {s["name"]: s["state"] for s in json.loads(out)["stages"]}
    assert states["export"] == "cached"
    assert states["train"] == "done"


@pytest.mark.usefixtures("node", "account")
def test_the_next_stage_is_created_within_a_second_of_a_record(
    cluster: controlplane.Cluster,
    namespace: str,
    tiny_run: TinyRun,
    repository: Path,
    store: str,
) -> None:
    """Measure from the appearance of a record to the creation of the next Job; polls are 0.5 s."""
    there = placed(tiny_run, namespace, store, repository)
    submission = there.backend.submission
    created: dict[str, float] = {}

    class Timed(Cluster):
        def create(self, document: Any, *, dry_run: bool = False) -> Any:
            done = super().create(document, dry_run=dry_run)
            created[document["metadata"]["labels"]["tuneloop.dev/stage"]] = time.time()
            return done

    client = Timed.connect(namespace, kubeconfig=str(cluster.kubeconfig))
    backend = KubernetesBackend(submission, lambda: client, poll_seconds=0.5)
    Sequence(backend).run(retry_failed=True, stop_on_interrupt=True)
    waits = []
    for before, after in itertools.pairwise(TRAINING_STAGES):
        url = layout.record_url(there.plan.artifacts, there.plan.run_id, before)
        waits.append(created[after] - Path(url).stat().st_mtime)
    assert sorted(waits)[1] <= 1.0, waits


@pytest.mark.usefixtures("node", "account")
def test_applied_by_kubectl_a_stage_that_is_early_says_what_it_waits_for(
    cluster: controlplane.Cluster,
    namespace: str,
    tiny_run: TinyRun,
    repository: Path,
    store: str,
    tmp_path: Path,
) -> None:
    there = placed(tiny_run, namespace, store, repository)
    folder = tmp_path / "manifests"
    folder.mkdir()
    rendered = dump_files(stage_files(there.backend.submission))
    for name in ("01-export.yaml", "04-import.yaml"):
        (folder / name).write_text(rendered[name])
    done = cluster.kubectl("apply", "-f", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    client = Cluster.connect(namespace, kubeconfig=str(cluster.kubeconfig))
    submission = there.backend.submission
    export, _, _, import_ = (StageWatch(client, submission, s) for s in submission.stages)
    wait_until(lambda: export.look().state == "Succeeded", "export has its record")
    verdict = wait_until(lambda: (v := import_.look()).is_final and v, "import has given up")
    assert (verdict.state, verdict.exit_code) == ("DataError", 12)
    assert "exit 66" in verdict.cause
    assert "eval/record.json: missing; stage eval has to finish first" in verdict.cause
