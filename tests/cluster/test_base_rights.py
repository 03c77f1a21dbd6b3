"""Test least privilege: the Roles of submitter and CI grant exactly the rights that they use.

Also test Kueue's example: its objects match Kueue's schemas, and stages get machines of their kind.
The audit log of the API server contains the requests, and its RBAC objects contain the rights.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import Invoke, TinyRun
from tests.cluster import controlplane
from tests.cluster.controlplane import wait_until
from tests.cluster.jobset import serve_jobset
from tests.cluster.kueue import serving_kueue
from tests.cluster.test_base import Object, find, objects
from tests.cluster.test_preflight import pod_of
from tests.k8s.rendering.test_render import rendered
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.k8s.client.connection import parse_quantity
from tuneloop.k8s.watch import StageWatch
from tuneloop.runs.planning.prepare import prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.cluster import StagePlacement
from tuneloop.specs.target import Target

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61
SMALL = {"cpu": "1", "memory": "1Gi", "ephemeral_storage": "1Gi"}
HUGE = {**SMALL, "cpu": "100"}
"""Number of CPUs that the test's node does not have."""

Right = tuple[str, str]
"""(`resource.group` or `resource/subresource.group`, verb)."""


@pytest.fixture(scope="module")
def apis(cluster: controlplane.Cluster) -> Iterator[None]:
    """Install the APIs of JobSet and Kueue; shared by all tests, because it is slow."""
    serve_jobset(cluster)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(serving_kueue(cluster))
        except controlplane.ControlPlaneUnavailable as e:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(e))
        yield


@pytest.fixture
def kubeconfig_of(cluster: controlplane.Cluster, base: str, tmp_path: Path) -> Callable[[str], str]:
    """Write a kubeconfig with the token of an account of the base."""

    def write(account: str) -> str:
        token = cluster.kubectl("create", "token", account, "-n", base, check=True).stdout.strip()
        config = json.loads(cluster.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        path = tmp_path / f"{account}.json"
        path.write_text(json.dumps(config))
        return str(path)

    return write


def granted(cluster: controlplane.Cluster, namespace: str, account: str) -> set[Right]:
    """Return the rights that RoleBindings of the namespace grant to an account."""
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    found: set[Right] = set()
    for binding in cluster.get("rolebindings", "-n", namespace)["items"]:
        if subject in binding["subjects"]:
            role = cluster.get("role", binding["roleRef"]["name"], "-n", namespace)
            found |= {
                (f"{resource}.{group}".rstrip("."), verb)
                for rule in role["rules"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    return found


def asked(
    cluster: controlplane.Cluster, namespace: str, account: str
) -> tuple[set[Right], set[Right]]:
    """Return the rights that an account used: those that a Role allowed, and those refused."""
    assert cluster.control_plane is not None
    allowed: set[Right] = set()
    refused: set[Right] = set()
    for event in cluster.control_plane.audited(f"{namespace}:{account}"):
        if "objectRef" not in event:
            continue  # discovery
        about, annotations = event["objectRef"], event["annotations"]
        resource = "/".join(filter(None, [about["resource"], about.get("subresource")]))
        right = (f"{resource}.{about.get('apiGroup', '')}".rstrip("."), event["verb"])
        if annotations["authorization.k8s.io/decision"] != "allow":
            refused.add(right)
        elif "RoleBinding" in annotations["authorization.k8s.io/reason"].replace("Cluster", ""):
            if 'RoleBinding "system:' in annotations["authorization.k8s.io/reason"]:
                continue  # every account may review its own rights
            allowed.add(right)
            # An apply that creates an object is also authorized as `create`.
            if right[1] == "patch" and event["responseStatus"]["code"] == 201:
                allowed.add((right[0], "create"))
    return allowed, refused


def refuse_admission(cluster: controlplane.Cluster, client: Cluster, watch: StageWatch) -> None:
    """Create the Workload that Kueue would have for a JobSet whose LocalQueue is inactive."""
    jobset = client.get("JobSet", watch.name)
    assert jobset is not None
    owner = {key: jobset[key] for key in ("apiVersion", "kind")}
    owner |= {key: jobset["metadata"][key] for key in ("name", "uid")}
    # The Workload of an earlier call may still be there, until the garbage collector has seen that
    # its JobSet is gone.
    name = f"inactive-{owner['uid'][:8]}"
    metadata = {"name": name, "namespace": client.namespace, "ownerReferences": [owner]}
    kind = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "metadata": metadata}
    template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    spec = {"podSets": [{"name": "main", "count": 1, "template": template}]}
    cluster.apply({**kind, "spec": spec})
    condition = {
        "type": "QuotaReserved",
        "status": "False",
        "reason": "Inadmissible",
        "message": "LocalQueue tuneloop is inactive",
        "lastTransitionTime": "2026-11-27T17:12:08Z",
    }
    cluster.kubectl(
        *("patch", "workloads.kueue.x-k8s.io", name, "-n", client.namespace),
        *("--subresource=status", "--type=merge", "-p"),
        json.dumps({"status": {"conditions": [condition]}}),
        check=True,
    )


def supervise(
    cluster: controlplane.Cluster, client: Cluster, run: TinyRun, repository: Path
) -> None:
    """Send requests that small CPU Jobs do not cause: for a JobSet, a queue and a failed pod."""
    run.change(execution__cluster__train={**SMALL, "accelerator": "h100-80gb-8x2"})
    run.change(train__batch_size=16)
    run.change(execution__cluster__queue="tuneloop")
    spec = load_run_spec(str(run.spec_path))
    submission = prepare(KubernetesBackend, spec, Target(image=IMAGE)).backend.submission
    gang = StageWatch(client, submission, submission.stages[1])
    gang.create(replace_failed=True)
    assert gang.kind == "JobSet"
    refuse_admission(cluster, client, gang)
    assert not gang.look().is_final
    gang.free()
    unwanted = StageWatch(client, submission, submission.stages[2])
    unwanted.create(replace_failed=True)
    unwanted.free()
    early = StageWatch(client, submission, submission.stages[3])  # exits 66
    early.create(replace_failed=True)
    verdict = wait_until(lambda: (v := early.look()).is_final and v, "import has given up", 60)
    assert verdict.state == "DataError", verdict
    early.archive_logs()  # as the sequence does after each poll
    run.change(execution__cluster__queue=None, execution__cluster__train=HUGE)


def clean(cluster: controlplane.Cluster, namespace: str) -> None:
    kinds = "jobs,configmaps,jobsets"
    cluster.kubectl("delete", kinds, "-n", namespace, "-l", "tuneloop.dev/run", check=True)


@pytest.mark.usefixtures("apis", "node")
def test_what_submitter_and_ci_ask_is_what_their_roles_grant(
    cluster: controlplane.Cluster,
    base: str,
    tiny_run: TinyRun,
    repository: Path,
    kubeconfig_of: Callable[[str], str],
    tuneloop: Invoke,
) -> None:
    stages = dict.fromkeys(("export", "eval", "import"), SMALL)
    place = {"namespace": base, "image": IMAGE, "train": HUGE, **stages}
    run = tiny_run.change(execution__cluster=place, execution__cluster__shared_artifacts=True)
    run.change(execution__cluster__compile_cache_claim="compiled")
    run.change(execution__cluster__submitter={"create_account": False})
    run.change(execution__cluster__timeouts={"unschedulable_seconds": 0})
    ci = ("--kubeconfig", kubeconfig_of("tuneloop-ci"))
    spec, at = run.spec_path, ("--artifacts", run.artifacts)

    # CI checks, submits and waits, with a queue that does not exist and a Secret it may not read.
    for queue in ("tuneloop", "absent"):
        run.change(execution__cluster__queue=queue)
        run.change(execution__cluster__store_token_secret="store-token")
        code, _, err = tuneloop("check", spec, "--server", *ci)
        assert code == 3, err
        assert f"LocalQueue {queue}: does not exist, expected one of: none exists" in err
        assert "warning: store_token: could not be checked" in err
        assert "PersistentVolumeClaim compiled: does not exist in namespace" in err
        assert "ServiceAccount tuneloop-submitter" not in err, "it has all rights"
        assert "submitter: could not be checked" not in err
    run.change(execution__cluster__submitter={})
    run.change(execution__cluster__queue=None, execution__cluster__store_token_secret=None)
    run.change(execution__cluster__compile_cache_claim=None)
    code, out, err = tuneloop("submit", spec, "--detach", "--json", *ci)
    assert code == 0, err
    run_id = json.loads(out)["run_id"]

    # The submitter's Job runs in the cluster, with the token of its account.
    code, _, err = tuneloop("wait", run_id, *at, "--poll-seconds", "0.2", *ci)
    assert code == 21, err
    job = f"{run_id}-submit"

    def ended() -> bool:
        status = cluster.get("job", job, "-n", base).get("status", {})
        return any(c["status"] == "True" for c in status.get("conditions", []))

    wait_until(ended, "the submitter has ended", 60)
    assert tuneloop("check", spec, "--server", *ci)[0] == 0  # the objects of the export exist
    code, out, err = tuneloop("cancel", run_id, *at, *ci)
    assert code == 0, err
    clean(cluster, base)
    for account in ("tuneloop-submitter", "tuneloop-ci"):
        client = Cluster.connect(base, kubeconfig=kubeconfig_of(account))
        supervise(cluster, client, run, repository)
        clean(cluster, base)

    table = {}
    for account in ("tuneloop-submitter", "tuneloop-ci"):
        used, refused = asked(cluster, base, account)
        table[account] = (used, granted(cluster, base, account), refused)
    used, may, refused = table["tuneloop-submitter"]
    assert used == may, (sorted(used - may), sorted(may - used))
    assert refused == set()
    used, may, refused = table["tuneloop-ci"]
    assert used == may, (sorted(used - may), sorted(may - used))
    assert refused == {("secrets", "get")}


def test_stages_store_and_strangers_may_nothing(cluster: controlplane.Cluster, base: str) -> None:
    """They have only the right of every authenticated account: to review its own rights."""
    for account in ("tuneloop-stage", "tuneloop-store", "default"):
        assert granted(cluster, base, account) == set()
        who = f"--as=system:serviceaccount:{base}:{account}"
        done = cluster.kubectl("auth", "can-i", "--list", who, "-n", base, check=True)
        rows = [line.split() for line in done.stdout.splitlines()[1:]]
        resources = {row[0] for row in rows if not row[0].startswith("[")}
        assert resources == {
            "selfsubjectreviews.authentication.k8s.io",
            "selfsubjectaccessreviews.authorization.k8s.io",
            "selfsubjectrulesreviews.authorization.k8s.io",
        }
        assert not [row for row in rows if "*" in row[-1]]
        found = cluster.get("serviceaccount", account, "-n", base)
        assert account == "default" or found["automountServiceAccountToken"] is False


def test_a_stage_pod_gets_no_token(cluster: controlplane.Cluster, base: str) -> None:
    """Even if its Job does not disable the token, the setting of the account applies."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "forgetful", "namespace": base},
        "spec": {
            "serviceAccountName": "tuneloop-stage",
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "main", "image": IMAGE, "securityContext": context}],
        },
    }
    done = cluster.kubectl(
        *("create", "--dry-run=server", "-o", "json", "-f", "-"), input=json.dumps(pod), check=True
    )
    made: dict[str, Any] = json.loads(done.stdout)["spec"]
    assert "volumes" not in made
    assert made["containers"][0]["resources"]["limits"]["memory"] == "1Gi", "the LimitRange's"


@pytest.mark.usefixtures("apis")
def test_queues_are_taken_by_kueues_own_schemas(
    cluster: controlplane.Cluster, base: str, repository: Path, tmp_path: Path
) -> None:
    """Add the component to an overlay, as an operator does.

    The overlay sets `namespace:`. kustomize also writes it into ClusterQueue and ResourceFlavors,
    because it does not know that they are not namespaced. The server removes it.
    """
    folder = repository / "manifests" / "k8s" / "cluster"
    up = os.path.relpath(folder, tmp_path.resolve())
    lines = {"resources": [f"{up}/overlays/bare"], "components": [f"{up}/components/kueue"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": base, **lines}))
    strictly = ("apply", "--dry-run=server", "--validate=strict")
    done = cluster.kubectl(*strictly, "-k", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("kueue.x-k8s.io/") == 9
    queues = (folder / "components" / "kueue" / "queues.yaml").read_text()
    broken = queues.replace("queueingStrategy", "queuingStrategy")
    done = cluster.kubectl(*strictly, "-f", "-", input=broken)
    assert 'unknown field "spec.queuingStrategy"' in done.stderr


@pytest.mark.parametrize(
    ("stage", "accelerator", "queue", "expected"),
    [
        ("export", "cpu", "tuneloop-cpu", ["tuneloop-cpu"]),
        ("import", "cpu", "tuneloop-chips", []),
        ("train", "cpu", "tuneloop-chips", []),
        ("train", "v6e-1x1", "tuneloop-chips", ["tuneloop-tpu-v6e"]),
        ("train", "v6e-4x4", "tuneloop-chips", ["tuneloop-tpu-v6e"]),
        ("eval", "l4-1", "tuneloop-chips", ["tuneloop-gpu-l4"]),
        ("train", "l4-8", "tuneloop-chips", ["tuneloop-gpu-l4"]),
        ("train", "v6e-4x4", "tuneloop-cpu", []),
        ("train", "v5e-1x1", "tuneloop-chips", []),
    ],
)
def test_a_stage_gets_machines_of_its_kind_or_waits(
    repository: Path, stage: str, accelerator: str, queue: str, expected: list[str]
) -> None:
    """Apply Kueue's rules to the manifests: resources, node labels and taints of each flavor."""
    kueue = repository / "manifests" / "k8s" / "cluster" / "components" / "kueue"
    flavors = {f["metadata"]["name"]: f for f in objects((kueue / "flavors.yaml").read_text())}
    queues = objects((kueue / "queues.yaml").read_text())
    local = find(queues, "LocalQueue", queue)
    (group,) = find(queues, "ClusterQueue", local["spec"]["clusterQueue"])["spec"]["resourceGroups"]
    workload = rendered(stage, StagePlacement(accelerator=accelerator))[1]
    pod, requests = pod_of(workload)["spec"], requests_of(workload)

    def fits(offered: Object) -> bool:
        quotas = {each["name"]: each["nominalQuota"] for each in offered["resources"]}
        assert list(quotas) == group["coveredResources"]
        spec = flavors[offered["name"]].get("spec", {})
        wanted = {k: v for k, v in pod.get("nodeSelector", {}).items() if k in spec["nodeLabels"]}
        tolerated = [
            {key: toleration.get(key) for key in ("key", "value", "effect")}
            for toleration in pod.get("tolerations", [])
        ]
        return (
            set(requests) <= set(quotas)
            and all(requests[name] <= parse_quantity(quotas[name]) for name in requests)
            and all(taint in tolerated for taint in spec["nodeTaints"])
            and wanted.items() <= spec["nodeLabels"].items()
        )

    for spec in (flavor.setdefault("spec", {}) for flavor in flavors.values()):
        spec.setdefault("nodeLabels", {})
        spec.setdefault("nodeTaints", [])
    assert [each["name"] for each in group["flavors"] if fits(each)] == expected


def requests_of(workload: Object) -> dict[str, Any]:
    """Return what all pods of a workload request together."""
    job, count = workload["spec"], 1
    if workload["kind"] == "JobSet":
        (replicated,) = job["replicatedJobs"]
        job, count = replicated["template"]["spec"], replicated["replicas"]
    count *= job.get("parallelism", 1)
    (container,) = job["template"]["spec"]["containers"]
    requests = container["resources"]["requests"]
    return {name: parse_quantity(text) * count for name, text in requests.items()}
