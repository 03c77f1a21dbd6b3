"""Test the verdicts on gangs of which the real Job controller cannot create all pods.

The JobSet API is served without its controller. `expand` creates the child Jobs as that controller
would, and the real Job controller then meets quotas, priorities and policies.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.cluster import controlplane
from tests.cluster.controlplane import wait_until
from tests.cluster.jobset import serve_jobset
from tests.cluster.node import Node
from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.k8s.watch import StageWatch
from tuneloop.runs.planning.prepare import prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.target import Target

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61
SMALL = {"cpu": "1", "memory": "1Gi", "ephemeral_storage": "1Gi"}
SECONDS = 15
"""Time in which a verdict has to follow its condition."""


def expand(cluster: controlplane.Cluster, jobset: dict[str, Any]) -> None:
    """Create the child Jobs of a JobSet, with the labels of its controller."""
    metadata = jobset["metadata"]
    owner = {key: jobset[key] for key in ("apiVersion", "kind")}
    owner |= {"name": metadata["name"], "uid": metadata["uid"], "controller": True}
    for replicated in jobset["spec"]["replicatedJobs"]:
        for index in range(replicated["replicas"]):
            template = copy.deepcopy(replicated["template"])
            labels = {
                "jobset.sigs.k8s.io/jobset-name": metadata["name"],
                "jobset.sigs.k8s.io/jobset-uid": metadata["uid"],
            }
            pod = template["spec"]["template"].setdefault("metadata", {})
            pod["labels"] = {**pod.get("labels", {}), **labels}
            name = f"{metadata['name']}-{replicated['name']}-{index}"
            place = {"name": name, "namespace": metadata["namespace"]}
            place |= {"labels": labels, "ownerReferences": [owner]}
            job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": place}
            cluster.apply({**job, "spec": template["spec"]})


class Gang:
    """The train stage on two hosts of eight GPUs."""

    def __init__(self, cluster: controlplane.Cluster, watch: StageWatch) -> None:
        self.cluster, self.watch = cluster, watch

    def start(self) -> None:
        self.watch.create(replace_failed=False)
        jobset = self.watch.cluster.get("JobSet", self.watch.name)
        assert jobset is not None
        expand(self.cluster, jobset)

    def verdict(self, state: str, seconds: float = SECONDS) -> Verdict:
        """Return the first verdict with this state."""

        def check() -> Verdict | None:
            found = self.watch.look()
            return found if found.state == state else None

        found: Verdict = wait_until(check, f"state {state}", seconds)
        return found


@pytest.fixture
def gang(cluster: controlplane.Cluster, namespace: str, tiny_run: TinyRun) -> Callable[..., Gang]:
    serve_jobset(cluster)

    def make(**changes: Any) -> Gang:
        train = {**SMALL, "accelerator": "h100-80gb-8x2"}
        place = {"namespace": namespace, "train": train, **changes}
        tiny_run.change(execution__cluster=place, train__batch_size=16)
        spec = load_run_spec(str(tiny_run.spec_path))
        submission = prepare(KubernetesBackend, spec, Target(image=IMAGE)).backend.submission
        client = Cluster.connect(namespace, kubeconfig=str(cluster.kubeconfig))
        return Gang(cluster, StageWatch(client, submission, submission.stages[1]))

    return make


@pytest.fixture
def account(cluster: controlplane.Cluster, namespace: str) -> None:
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)


def test_a_missing_account_is_named(gang: Callable[..., Gang]) -> None:
    made = gang()
    made.start()
    verdict = made.verdict("ConfigError")
    assert (verdict.exit_code, verdict.about) == (10, f"Job {made.watch.name}-w-0")
    assert "create ServiceAccount tuneloop-stage" in verdict.fix


@pytest.mark.usefixtures("account")
def test_a_quota_for_half_of_the_gang(
    gang: Callable[..., Gang],
    cluster: controlplane.Cluster,
    namespace: str,
    make_node: Callable[..., Node],
) -> None:
    labels = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    make_node(labels=labels, resources={"nvidia.com/gpu": "16"})
    metadata = {"name": "gpus", "namespace": namespace}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata}

    def allow(count: str) -> None:
        cluster.apply({**quota, "spec": {"hard": {"requests.nvidia.com/gpu": count}}})
        wait_until(
            lambda: (
                cluster.get("resourcequota", "gpus", "-n", namespace)
                .get("status", {})
                .get("hard", {})
                .get("requests.nvidia.com/gpu")
                == count
            ),
            "the quota is in force",
        )

    allow("8")
    made = gang()
    made.start()
    verdict = made.verdict("QuotaExceeded")
    assert verdict.exit_code == 23
    assert "1 of 2 pods exist" in wait_until(
        lambda: (cause := made.watch.look().cause) and "1 of 2" in cause and cause,
        "one pod exists",
    )
    assert "ResourceQuota gpus" in verdict.fix
    allow("16")
    # The controller waits longer before each try; the old warning does not hide the new pods.
    wait_until(lambda: made.watch.look().state != "QuotaExceeded", "the cause is gone", 60)


@pytest.fixture
def priority_label(cluster: controlplane.Cluster, namespace: str) -> Iterator[None]:
    """Write a pod's priority into a label, as the webhook of JobSet does."""
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": namespace}}
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    label = '{"jobset.sigs.k8s.io/priority": "-100"}'
    expression = f"Object{{metadata: Object.metadata{{labels: {label}}}}}"
    change = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}
    rules = {"resourceRules": [{**pods, "operations": ["CREATE"]}]}
    policy = {"matchConstraints": rules, "mutations": [change]}
    policy |= {"failurePolicy": "Fail", "reinvocationPolicy": "Never"}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {"policyName": namespace, "matchResources": {"namespaceSelector": selector}}
    cluster.apply(
        {**kind, "kind": "MutatingAdmissionPolicy", "spec": policy},
        {**kind, "kind": "MutatingAdmissionPolicyBinding", "spec": binding},
    )
    pod = {"containers": [{"name": "main", "image": "x"}], "serviceAccountName": "tuneloop-stage"}
    probe = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace}}

    def is_in_force() -> bool:
        done = cluster.kubectl(
            "create", "--dry-run=server", "-f", "-", input=json.dumps({**probe, "spec": pod})
        )
        return "Invalid value" in done.stderr

    wait_until(is_in_force, "the policy is in force", 30)
    yield
    for name in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
        cluster.kubectl("delete", name, namespace, check=True)


@pytest.mark.usefixtures("account", "priority_label")
def test_a_priority_below_zero_is_explained(gang: Callable[..., Gang]) -> None:
    made = gang()
    made.start()
    verdict = made.verdict("ConfigError")
    assert (verdict.exit_code, verdict.about) == (10, f"Job {made.watch.name}-w-0")
    assert 'metadata.labels: Invalid value: "-100"' in verdict.cause
    assert "a value of 0 or more" in verdict.fix


@pytest.mark.usefixtures("account")
def test_what_the_namespace_refuses(gang: Callable[..., Gang]) -> None:
    made = gang()
    spec = made.watch.stage.workload["spec"]["replicatedJobs"][0]["template"]["spec"]
    spec["template"]["spec"]["hostNetwork"] = True
    made.start()
    verdict = made.verdict("ConfigError")
    assert (verdict.exit_code, verdict.about) == (10, f"Job {made.watch.name}-w-0")
    assert "violates PodSecurity" in verdict.cause


@pytest.mark.usefixtures("account")
def test_half_of_the_gang_has_no_node(
    gang: Callable[..., Gang], make_node: Callable[..., Node]
) -> None:
    labels = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    make_node(labels=labels, resources={"nvidia.com/gpu": "8"})
    made = gang(timeouts={"unschedulable_seconds": 3600})
    made.start()
    verdict = made.verdict("Unschedulable")
    assert not verdict.is_final
    assert "Insufficient nvidia.com/gpu" in verdict.cause
    assert "1 of 2 pods" in verdict.cause
