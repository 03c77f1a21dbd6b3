"""Test `check --server`, and dry runs of all rendered objects, on a real API server."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import objectstore
from tests.builders import TinyRun, stage_specs
from tests.cluster import controlplane
from tests.cluster.jobset import serve_jobset
from tests.k8s.rendering.test_render import GOLDENS, MANIFESTS
from tuneloop.errors import SpecError
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.k8s.checks.preflight import preflight
from tuneloop.k8s.client.cluster import Cluster
from tuneloop.k8s.rendering.manifests import cluster_of, stage_files
from tuneloop.k8s.rendering.render import Renderer
from tuneloop.k8s.watch import StageWatch
from tuneloop.runs.planning.prepare import Prepared, prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.cluster import ClusterSpec, StagePlacement
from tuneloop.specs.target import Target

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61


@pytest.fixture(scope="session")
def jobset_api(cluster: controlplane.Cluster) -> None:
    serve_jobset(cluster)


@pytest.fixture
def client(cluster: controlplane.Cluster, namespace: str) -> Cluster:
    return Cluster.connect(namespace, kubeconfig=str(cluster.kubeconfig))


@pytest.fixture
def account(cluster: controlplane.Cluster, namespace: str) -> None:
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)


def prepared(
    run: TinyRun, repository: Path, namespace: str, **place: Any
) -> Prepared[KubernetesBackend]:
    run.change(execution__cluster={"namespace": namespace, **place})
    spec = load_run_spec(str(run.spec_path))
    return prepare(KubernetesBackend, spec, Target(image=IMAGE))


def findings(
    client: Cluster, found: Prepared[KubernetesBackend], artifacts: str | None = None
) -> list[str]:
    """Return the findings but for the registry, which does not exist."""
    spec, artifacts = cluster_of(found.plan.spec), artifacts or found.plan.artifacts
    documents = stage_files(found.backend.submission)
    texts = [
        f"{each.severity}: {each}"
        for each in preflight(client, documents, spec=spec, artifacts=artifacts)
    ]
    unchecked = f"warning: image {IMAGE}: not checked for the packages that the run needs: registry"
    is_there = "does not exist, so nothing else was checked" not in texts[0]
    assert sum(text.startswith(unchecked) for text in texts) == is_there, texts
    return [text for text in texts if not text.startswith(unchecked)]


@pytest.mark.usefixtures("account", "jobset_api")
def test_a_cluster_that_has_all_gives_no_finding(
    client: Cluster,
    tiny_run: TinyRun,
    repository: Path,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = {"accelerator": "v5e-4x4"}
    tiny_run.change(train__batch_size=16)
    found = prepared(tiny_run, repository, namespace, train=train)
    assert findings(client, found) == []
    with objectstore.gcs() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        (warning,) = findings(client, found, store.url("a"))
        assert "ServiceAccount tuneloop-stage: has no annotation iam.gke" in warning
        assert warning.startswith("warning: ")
        store.proxy.ignores_preconditions = True
        (error, _) = findings(client, found, store.url("a"))
        assert error.startswith("error: execution.artifacts: gs://tests/a: a second creation of")
        assert store.bucket.names() == []
    objectstore.forget_clients("gs")


@pytest.mark.usefixtures("account", "jobset_api")
def test_credentials_of_a_secret_need_no_annotation(
    cluster: controlplane.Cluster,
    client: Cluster,
    tiny_run: TinyRun,
    repository: Path,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster.kubectl("create", "secret", "generic", "keys", "-n", namespace, check=True)
    found = prepared(tiny_run, repository, namespace, credentials_secret="keys")
    with objectstore.s3() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        assert findings(client, found, store.url("a")) == []
    objectstore.forget_clients("s3")


@pytest.mark.usefixtures("account", "jobset_api")
def test_priority_classes_and_claims(
    cluster: controlplane.Cluster,
    client: Cluster,
    tiny_run: TinyRun,
    repository: Path,
    namespace: str,
) -> None:
    low = f"low-{namespace}"
    metadata = {"name": low}
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": metadata}
    cluster.apply({**kind, "value": -100, "preemptionPolicy": "Never"})
    place = {"pod_priority_class": low}
    tiny_run.change(train__batch_size=16)
    alone = prepared(tiny_run, repository, namespace, **place)
    assert findings(client, alone) == [], "a Job may have any priority"
    gang = {"train": {"accelerator": "v5e-4x4"}}
    found = prepared(tiny_run, repository, namespace, **place, **gang)
    (said,) = findings(client, found)
    assert said == (
        f"error: PriorityClass {low}: has the value -100, which JobSet writes into a label of its"
        " pods and the API server then refuses; use a class with a value of 0 or more"
    )
    cluster.kubectl("delete", "priorityclass", low, check=True)
    said = "\n".join(findings(client, found))
    assert f"error: PriorityClass {low}: does not exist; create it, or correct" in said

    found = prepared(tiny_run, repository, namespace, compile_cache_claim="compiled", **gang)
    (said,) = findings(client, found)
    assert said.startswith("error: PersistentVolumeClaim compiled: does not exist in namespace")
    claim = {"name": "compiled", "namespace": namespace}
    volume = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim}
    cluster.apply({**kind, "spec": volume})
    (said,) = findings(client, found)
    assert said.startswith("warning: PersistentVolumeClaim compiled: is not ReadWriteMany, but ")
    assert "mounts it in 4 pods" in said
    one = {"train": {"accelerator": "v5e-2x2"}}
    found = prepared(tiny_run, repository, namespace, compile_cache_claim="compiled", **one)
    assert findings(client, found) == []


def test_what_is_missing_is_said_with_what_to_do(
    cluster: controlplane.Cluster,
    client: Cluster,
    tiny_run: TinyRun,
    repository: Path,
    namespace: str,
) -> None:
    quota = {"hard": {"requests.cpu": "1500m", "count/jobs.batch": "10"}}
    metadata = {"name": "small", "namespace": namespace}
    kind = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata}
    cluster.apply({**kind, "spec": quota})
    controlplane.wait_until(
        lambda: (
            cluster.get("resourcequota", "small", "-n", namespace).get("status", {}).get("hard")
        ),
        "the quota is in force",
    )
    account = {"name": "puller", "namespace": namespace}
    cluster.apply(
        {
            **{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
            "imagePullSecrets": [{"name": "registry"}],
        }
    )
    found = prepared(tiny_run, repository, namespace, queue="tpu", service_account="puller")
    said = "\n".join(findings(client, found))
    assert "error: LocalQueue tpu: the cluster does not serve kueue.x-k8s.io" in said
    assert "names image pull secret registry, which does not exist; create it" in said
    assert "ResourceQuota small: leaves 1.5 of requests.cpu, but one stage needs 2" in said
    secrets = {"store_token_secret": "absent", "credentials_secret": "none"}
    found = prepared(tiny_run, repository, namespace, **secrets)
    said = "\n".join(findings(client, found))
    assert "Secret none: does not exist; run `kubectl create secret generic none --from-e" in said
    assert "Secret absent: does not exist or has no key `token`; run `kubectl create sec" in said
    assert "ServiceAccount tuneloop-stage: does not exist; run `kubectl create" in said
    found = prepared(tiny_run, repository, "nowhere")
    elsewhere = Cluster.connect("nowhere", kubeconfig=str(cluster.kubeconfig))
    (said,) = findings(elsewhere, found)
    assert "Namespace nowhere: does not exist" in said


@pytest.mark.usefixtures("account")
def test_rights_that_are_missing_are_named(
    cluster: controlplane.Cluster,
    tiny_run: TinyRun,
    repository: Path,
    namespace: str,
    tmp_path: Path,
) -> None:
    """Run the check as an account that may only read Jobs."""
    cluster.kubectl(
        "create", "role", "looks", "--verb=get,list", "--resource=jobs", "-n", namespace
    )
    cluster.kubectl(
        *("create", "rolebinding", "looks", "--role=looks"),
        *(f"--serviceaccount={namespace}:tuneloop-stage", "-n", namespace),
        check=True,
    )
    token = cluster.kubectl("create", "token", "tuneloop-stage", "-n", namespace, check=True)
    config = json.loads(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token.stdout.strip()}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    limited = Cluster.connect(namespace, kubeconfig=str(path))
    said = findings(limited, prepared(tiny_run, repository, namespace))
    denied = [line for line in said if "no right to" in line]
    assert [line.split("no right to ")[1].split(",")[0] for line in denied] == [
        *("create Job", "delete Job"),
        *("create ConfigMap", "patch ConfigMap"),
        *("list Pod", "get Pod/log", "list Event"),
    ]
    assert [line for line in said if "could not be checked" in line]


@pytest.mark.usefixtures("account")
def test_the_account_of_the_submitter_is_checked_unless_it_is_created(
    cluster: controlplane.Cluster,
    client: Cluster,
    tiny_run: TinyRun,
    repository: Path,
    namespace: str,
) -> None:
    place = {"submitter": {"service_account": "loops", "create_account": False}}
    found = prepared(tiny_run, repository, namespace, **place)
    (said,) = findings(client, found)
    assert said.startswith("error: ServiceAccount loops: does not exist, and execution.cluster.sub")
    cluster.kubectl("create", "serviceaccount", "loops", "-n", namespace, check=True)
    cluster.kubectl("create", "role", "jobs", "--verb=*", "--resource=jobs,events", "-n", namespace)
    binding = ("--role=jobs", f"--serviceaccount={namespace}:loops", "-n", namespace)
    cluster.kubectl("create", "rolebinding", "loops", *binding, check=True)
    lines = findings(client, found)
    assert [line.split("has no right to ")[1].split(",")[0] for line in lines] == [
        *("create ConfigMap", "patch ConfigMap", "list Pod", "get Pod/log")
    ]
    assert lines[0].startswith("error: ServiceAccount loops: ")
    place["submitter"].pop("create_account")
    assert findings(client, prepared(tiny_run, repository, namespace, **place)) == []


@pytest.mark.usefixtures("jobset_api")
def test_every_golden_and_every_gang_is_taken_and_its_pod_admitted(
    cluster: controlplane.Cluster, namespace: str, repository: Path
) -> None:
    """Validate the workload strictly, and its pod with PodSecurity, which checks only pods."""
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)
    cluster.kubectl("create", "serviceaccount", "trainer", "-n", namespace, check=True)
    cluster.kubectl("create", "serviceaccount", "tuneloop-submitter", "-n", namespace, check=True)
    documents, pods = [], []
    for file in sorted((repository / "tests" / "golden" / "k8s").glob("*.yaml")):
        for number, document in enumerate(yaml.safe_load_all(file.read_text())):
            document["metadata"]["namespace"] = namespace
            document["metadata"]["name"] = f"{file.stem[:40]}-{number}"
            for subject in document.get("subjects", []):
                subject["namespace"] = namespace
            documents.append(document)
            pods += [pod_of(document)] if document["kind"] in ("Job", "JobSet") else []
    keys = MANIFESTS.accelerators.keys()
    for number, key in enumerate(keys):
        spec = ClusterSpec(namespace=namespace, train=StagePlacement(accelerator=key))
        renderer = Renderer(
            f"g-{number}", spec, IMAGE, None, MANIFESTS.templates, MANIFESTS.accelerators
        )
        if renderer.shape(stage_specs()["train"]).is_multi_host:
            documents += renderer.render(stage_specs()["train"])
    assert len(GOLDENS) + 1 == len(list((repository / "tests" / "golden" / "k8s").glob("*.yaml")))
    assert len([d for d in documents if d["kind"] == "JobSet"]) > 40
    text = "\n---\n".join(json.dumps(each) for each in [*documents, *pods])
    done = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"), input=text
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("(server dry run)") == len(documents) + len(pods)


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    spec = workload["spec"]
    if workload["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    pod = copy.deepcopy(spec["template"])
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"] |= {k: workload["metadata"][k] for k in ("name", "namespace")}
    return pod


@pytest.mark.usefixtures("account", "jobset_api")
def test_a_gang_is_created_adopted_judged_and_deleted(
    client: Cluster, tiny_run: TinyRun, repository: Path, namespace: str
) -> None:
    tiny_run.change(train__batch_size=16)
    found = prepared(tiny_run, repository, namespace, train={"accelerator": "h100-80gb-8x2"})
    submission = found.backend.submission
    watch = StageWatch(client, submission, submission.stages[1])
    assert watch.kind == "JobSet"
    watch.create(replace_failed=True)
    again = StageWatch(client, submission, submission.stages[1])
    again.create(replace_failed=True)
    assert len(client.find("JobSet")) == 1
    assert watch.look().state == "Pulling"
    broken = copy.deepcopy(submission.stages[1].workload)
    broken["metadata"]["name"] = "broken"
    broken["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(SpecError, match=r'unknown field "spec\.failurePolicy\.maxRestart"'):
        client.create(broken)
    broken = copy.deepcopy(submission.stages[1].workload)
    broken["metadata"]["name"] = "broken"
    broken["spec"]["replicatedJobs"][0]["replicas"] = "two"
    with pytest.raises(SpecError, match="replicas"):
        client.create(broken)
    watch.free()
    assert client.find("JobSet") == []
    assert watch.look().state == "Deleted"
