"""Test the verdicts on failures of a stage that the real controllers cause."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.cluster import controlplane
from tests.cluster.controlplane import wait_until
from tests.cluster.node import OUTCOME, Node
from tuneloop.artifacts.evaluation.verdict import Verdict, verdict_url
from tuneloop.artifacts.runs.submission import Submission
from tuneloop.errors import QuotaExceeded, StageFailed
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.k8s.rendering.render import FINAL_EXIT_CODES
from tuneloop.k8s.watch import StageWatch
from tuneloop.runs.planning.prepare import prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.runs.sequence import Sequence
from tuneloop.specs.cluster import TimeoutSpec
from tuneloop.specs.target import Target
from tuneloop.storage import files

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61
SMALL = {"cpu": "1", "memory": "1Gi", "ephemeral_storage": "1Gi"}


class Case:
    """One export stage on the cluster, whose pods can be replaced by others."""

    def __init__(self, client: Cluster, submission: Submission) -> None:
        self.client, self.submission = client, submission

    def change(
        self,
        name: str = "",
        *,
        code: str | None = None,
        outcome: Any = None,
        timeouts: TimeoutSpec | None = None,
        job: Any = None,
        pod: Any = None,
    ) -> Case:
        """Return the same stage with another name and a changed pod."""
        submission = copy.deepcopy(self.submission)
        stage = submission.stages[0]
        for document in stage.documents:
            document["metadata"]["name"] += name
        spec = stage.workload["spec"]
        spec |= job or {}
        inner = spec["template"]["spec"]
        inner |= pod or {}
        inner["volumes"][0]["configMap"]["name"] += name
        if code is not None:
            inner["containers"][0]["command"] = ["python", "-c", code]
        if outcome is not None:
            spec["template"]["metadata"]["annotations"][OUTCOME] = json.dumps(outcome)
        update = {"timeouts": timeouts} if timeouts else {}
        return Case(self.client, submission.model_copy(update=update))

    def sequence(self) -> Sequence:
        return Sequence(KubernetesBackend(self.submission, lambda: self.client, poll_seconds=0.2))

    def watch(self) -> StageWatch:
        return StageWatch(self.client, self.submission, self.submission.stages[0])

    def verdict(self, state: str | None = None, seconds: float = 30) -> Verdict:
        """Create the stage; return the first final verdict, or the first with the given state."""
        watch = self.watch()
        watch.create(replace_failed=False)

        def check() -> Verdict | None:
            found = watch.look()
            return found if found.is_final or found.state == state else None

        found: Verdict = wait_until(check, f"a verdict, or {state}", seconds)
        return found


@pytest.fixture
def case(
    cluster: controlplane.Cluster, namespace: str, tiny_run: TinyRun, repository: Path
) -> Case:
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)
    tiny_run.change(execution__cluster={"namespace": namespace, "export": SMALL})
    spec = load_run_spec(str(tiny_run.spec_path))
    prepared = prepare(KubernetesBackend, spec, Target(image=IMAGE))
    client = Cluster.connect(namespace, kubeconfig=str(cluster.kubeconfig))
    return Case(client, prepared.backend.submission)


def exiting(code: int, cause: str = "") -> str:
    message = json.dumps({"cause": cause, "exit_code": code})
    return (
        "import os, signal, sys\n"
        f"if {cause!r}: open(os.environ['TUNELOOP_TERMINATION_LOG'], 'w').write({message!r})\n"
        f"sys.exit({code})"
    )


@pytest.mark.usefixtures("node")
def test_every_final_code_ends_the_job_at_once_and_the_others_are_tried_again(
    cluster: controlplane.Cluster, namespace: str, case: Case
) -> None:
    expected = {
        **{1: 10, 2: 10, 65: 12, 66: 12, 69: 20, 70: 10, 71: 11, 77: 20, 78: 3},
        **{126: 10, 127: 10, 137: 11},
    }
    assert sorted(expected) == FINAL_EXIT_CODES
    watches = {}
    for code in [*expected, 75, 134, 139, 143]:
        watches[code] = case.change(f"-{code}", code=exiting(code, f"cause {code}")).watch()
        watches[code].create(replace_failed=False)
    for code, exit_code in expected.items():
        verdict = wait_until(
            lambda watch=watches[code]: (v := watch.look()).is_final and v, f"code {code} is final"
        )
        assert verdict.exit_code == exit_code, verdict
        assert f"exit {code}" in verdict.cause
        assert f"cause {code}" in verdict.cause
        assert verdict.fix
    for code in (75, 134, 139, 143):
        verdict = wait_until(
            lambda watch=watches[code]: (v := watch.look()).state == "Restarting" and v,
            f"code {code} is tried again",
        )
        assert f"exit {code}" in verdict.cause
        assert not verdict.is_final


@pytest.mark.usefixtures("node")
def test_a_failed_stage_is_a_sentence_its_evidence_is_kept_and_run_again_continues(
    case: Case, cluster: controlplane.Cluster, namespace: str
) -> None:
    broken = case.change(code="import sys; print('last words'); sys.exit(1)")
    sequence = broken.sequence()
    with pytest.raises(StageFailed, match=r"stage export: UserError: .* exit 1: last words; read"):
        sequence.run(retry_failed=True, stop_on_interrupt=True)
    prefix = broken.watch().prefix
    verdict = json.loads(files.read(verdict_url(prefix)))
    assert verdict["state"] == "UserError"
    assert verdict["pods"][0]["status"]["phase"] == "Failed"
    (log,) = [url for url in files.list_files(f"{prefix}/logs") if url.endswith(".log")]
    assert b"last words" in files.read(log)
    # `wait` reports the failure again. `run` retries with a new object of the same name.
    with pytest.raises(StageFailed, match="UserError"):
        sequence.run(retry_failed=False, stop_on_interrupt=False)
    assert case.sequence().submit() == "export"
    watch = case.watch()
    wait_until(lambda: watch.look().state == "Succeeded", "the second try has its record")


@pytest.mark.usefixtures("node")
def test_images_that_cannot_be_pulled(case: Case) -> None:
    said = 'Back-off pulling image "x": ErrImagePull: manifest unknown'
    waiting = {"reason": "ImagePullBackOff", "message": said}
    verdict = case.change("-a", outcome={"waiting": waiting}).verdict()
    assert (verdict.state, verdict.exit_code) == ("ImageError", 22)
    assert "manifest unknown" in verdict.cause
    slow = {"waiting": {**waiting, "message": "Back-off pulling image: i/o timeout"}}
    verdict = case.change("-b", outcome=slow).verdict("ImageError")
    assert not verdict.is_final
    timeouts = TimeoutSpec(image_pull_seconds=0)
    assert case.change("-c", outcome=slow, timeouts=timeouts).verdict().exit_code == 22


def test_no_node_takes_it(case: Case, make_node: Callable[..., Node]) -> None:
    make_node()
    tpu = {"nodeSelector": {"cloud.google.com/gke-tpu-topology": "2x4"}}
    timeouts = TimeoutSpec(unschedulable_seconds=1)
    broken = case.change(pod=tpu, timeouts=timeouts)
    sequence = broken.sequence()
    with pytest.raises(
        StageFailed, match=r"no node fits pod .*: 0/1 nodes are available"
    ) as caught:
        sequence.run(retry_failed=True, stop_on_interrupt=True)
    assert caught.value.exit_code == 21
    watch = broken.watch()
    wait_until(
        lambda: case.client.get("Job", watch.name) is None, "what could not start holds nothing"
    )


def test_a_quota_refuses_the_job_or_its_pods(
    case: Case, cluster: controlplane.Cluster, namespace: str
) -> None:
    def quota(name: str, hard: dict[str, str]) -> None:
        metadata = {"name": name, "namespace": namespace}
        kind = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata}
        cluster.apply({**kind, "spec": {"hard": hard}})

        def counted() -> Any:
            found = cluster.get("resourcequota", name, "-n", namespace)
            return found.get("status", {}).get("hard")

        wait_until(counted, "the quota is in force")

    quota("pods", {"requests.cpu": "500m"})
    verdict = case.change("-a").verdict()
    assert (verdict.state, verdict.exit_code) == ("QuotaExceeded", 23)
    assert "requested: requests.cpu=1" in verdict.cause
    quota("jobs", {"count/jobs.batch": "1"})
    with pytest.raises(QuotaExceeded, match=r"create Job .*exceeded quota: jobs"):
        case.change("-b").verdict()


def test_what_the_namespace_refuses_is_said(
    case: Case, cluster: controlplane.Cluster, namespace: str
) -> None:
    verdict = case.change("-a", pod={"hostNetwork": True}).verdict()
    assert (verdict.state, verdict.exit_code) == ("ConfigError", 10)
    assert "violates PodSecurity" in verdict.cause
    verdict = case.change("-b", pod={"serviceAccountName": "nobody"}).verdict()
    assert (verdict.state, verdict.exit_code) == ("ConfigError", 10)
    assert 'serviceaccount "nobody" not found' in verdict.cause
    assert "service_account" in verdict.fix


@pytest.mark.usefixtures("node")
def test_a_missing_config_map_waits_a_moment_and_is_named(case: Case) -> None:
    broken = case.change()
    volumes = broken.submission.stages[0].workload["spec"]["template"]["spec"]["volumes"]
    volumes[0] = {"name": "spec", "configMap": {"name": "absent"}}
    verdict = broken.verdict("ConfigError")
    assert 'configmap "absent" not found' in verdict.cause
    assert not verdict.is_final


@pytest.mark.usefixtures("node")
def test_out_of_memory_admission_and_deadlines(case: Case) -> None:
    watches = {
        "oom": case.change("-a", code="import time; time.sleep(60)", outcome={"oom": True}),
        "late": case.change(
            "-b", code="import time; time.sleep(60)", job={"activeDeadlineSeconds": 2}
        ),
        "refused": case.change(
            "-c", outcome={"rejected": "UnexpectedAdmissionError"}, job={"backoffLimit": 0}
        ),
    }
    found = {name: changed.verdict() for name, changed in watches.items()}
    assert {name: (v.state, v.exit_code) for name, v in found.items()} == {
        "oom": ("OutOfMemory", 11),
        "late": ("DeadlineExceeded", 31),
        "refused": ("AdmissionRejected", 20),
    }


def test_a_lost_node_is_named_within_seconds(
    case: Case, make_node: Callable[..., Node], cluster: controlplane.Cluster, namespace: str
) -> None:
    node = make_node()
    watch = case.change(code="import time; time.sleep(600)").watch()
    watch.create(replace_failed=False)
    wait_until(lambda: watch.look().state == "Running", "the pod runs")
    node.lose()

    def is_marked() -> bool:
        (pod,) = cluster.get("pods", "-n", namespace)["items"]
        ready = [c["status"] for c in pod["status"]["conditions"] if c["type"] == "Ready"]
        return ready == ["False"]

    wait_until(is_marked, "the node controller has marked the pod", 60)
    verdict = watch.look()
    assert (verdict.state, verdict.exit_code) == ("NodeLost", None)
    assert f"on node {node.name} is lost" in verdict.cause
    assert f"kubectl delete node {node.name}" in verdict.fix
    assert verdict.about.startswith("Pod ")


@pytest.mark.usefixtures("node")
def test_gone_is_deleted_unless_the_record_is_there(case: Case) -> None:
    """If the TTL deletes a Job before it is polled, its record still shows its success."""
    quick = case.change("-a", job={"ttlSecondsAfterFinished": 0})
    watch = quick.watch()
    watch.create(replace_failed=False)
    wait_until(lambda: case.client.get("Job", watch.name) is None, "the TTL controller was here")
    assert watch.look().state == "Succeeded"
    files.delete_tree(watch.prefix)
    lost = watch.look()
    assert (lost.state, lost.exit_code) == ("Deleted", 30)


@pytest.mark.usefixtures("node")
def test_success_without_a_record_is_a_failure(case: Case) -> None:
    verdict = case.change(code="pass").verdict()
    assert (verdict.state, verdict.exit_code) == ("SucceededNoOutput", 20)


@pytest.mark.usefixtures("node")
def test_each_index_has_its_own_tries(case: Case) -> None:
    code = "import os, sys; sys.exit(75 if os.environ['JOB_COMPLETION_INDEX'] == '1' else 0)"
    spec = case.submission.stages[0].workload["spec"]
    del spec["backoffLimit"]
    indexed = {"completionMode": "Indexed", "completions": 3, "parallelism": 3}
    changed = case.change(code=code, job={**indexed, "backoffLimitPerIndex": 0})
    verdict = changed.verdict()
    assert (verdict.state, verdict.exit_code) == ("Transient", 20)
    assert "failed indexes 1" in verdict.cause
    job = case.client.get("Job", changed.watch().name)
    assert job is not None
    assert job["status"]["completedIndexes"] == "0,2"


def test_a_second_submit_adopts_and_a_changed_spec_is_another_object(
    case: Case, tiny_run: TinyRun, repository: Path
) -> None:
    first, second = case.watch(), case.watch()
    first.create(replace_failed=True)
    before = case.client.get("Job", first.name)
    second.create(replace_failed=True)
    after = case.client.get("Job", first.name)
    assert before is not None
    assert after is not None
    assert before["metadata"]["uid"] == after["metadata"]["uid"]
    assert before["metadata"]["generation"] == after["metadata"]["generation"]
    tiny_run.change(export__shard_examples=10)
    spec = load_run_spec(str(tiny_run.spec_path))
    changed = prepare(KubernetesBackend, spec, Target(image=IMAGE))
    other = Case(case.client, changed.backend.submission).watch()
    assert other.name != first.name
    other.create(replace_failed=True)
    assert len(case.client.find("Job")) == 2


@pytest.mark.usefixtures("node")
def test_runs_that_share_a_stage_share_its_job(
    case: Case, tiny_run: TinyRun, repository: Path
) -> None:
    """Runs with equal name, data and export share one Job and record, if only eval differs."""
    tiny_run.change(eval__max_new_tokens=7)
    spec = load_run_spec(str(tiny_run.spec_path))
    changed = prepare(KubernetesBackend, spec, Target(image=IMAGE))
    other = Case(case.client, changed.backend.submission)
    assert other.submission.run_id != case.submission.run_id
    one, two = case.watch(), other.watch()
    assert one.name == two.name
    one.create(replace_failed=True)
    two.create(replace_failed=True)
    for watch in (one, two):
        wait_until(lambda watch=watch: watch.look().state == "Succeeded", "both have the record")
    assert len(case.client.find("Job")) == 1
