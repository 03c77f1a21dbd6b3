"""Test that a real API server accepts the output of kustomize for manifests/k8s/cluster."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from tests.cluster import controlplane
from tests.cluster.controlplane import Cluster, wait_until
from tests.cluster.jobset import serve_jobset
from tests.cluster.test_base_network import selects
from tests.cluster.test_preflight import pod_of
from tests.k8s.rendering.test_render import submitter
from tuneloop.k8s.checks.preflight import GANG_RIGHTS, QUEUE_RIGHTS, RIGHTS
from tuneloop.k8s.client.cluster import KINDS
from tuneloop.k8s.client.connection import parse_quantity
from tuneloop.specs.base import LabelValue
from tuneloop.store.middleware.auth import parse_tokens

Object = dict[str, Any]
COMPONENT = "app.kubernetes.io/component"
OVERLAYS = ("bare", "eks", "gke", "kind")


@pytest.fixture(scope="session")
def folder(repository: Path) -> Path:
    return repository / "manifests" / "k8s" / "cluster"


@pytest.fixture(scope="session")
def kustomized(cluster: Cluster, folder: Path) -> Callable[[str], str]:
    """Return a function that runs `kubectl kustomize` on an overlay and returns its output."""

    def text(overlay: str) -> str:
        done = cluster.kubectl("kustomize", str(folder / "overlays" / overlay), check=True)
        assert done.stderr == ""
        return done.stdout

    return text


def objects(text: str) -> list[Object]:
    return list(yaml.safe_load_all(text))


def find(found: list[Object], kind: str, name: str) -> Object:
    (one,) = [o for o in found if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return one


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_priorities_preempt_nothing_and_are_values_of_a_label(
    kustomized: Callable[[str], str], overlay: str
) -> None:
    """JobSet's webhook writes the priority of a gang's pods into a label."""
    found = [each for each in objects(kustomized(overlay)) if each["kind"] == "PriorityClass"]
    assert {each["metadata"]["name"] for each in found} == {"tuneloop-store", "tuneloop-stage"}
    for each in found:
        assert TypeAdapter(LabelValue).validate_python(str(each["value"]))
        assert each["preemptionPolicy"] == "Never"


@pytest.mark.golden
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_snapshot(
    overlay: str, kustomized: Callable[[str], str], golden: Callable[[str, str], None]
) -> None:
    golden(f"cluster/{overlay}.yaml", kustomized(overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_taken_by_strict_validation_without_a_warning(
    overlay: str, kustomized: Callable[[str], str], cluster: Cluster, namespace: str
) -> None:
    """The objects are applied to the namespace of the test instead of the overlay's."""
    found = objects(kustomized(overlay))
    for each in found:
        if "namespace" in each["metadata"]:
            each["metadata"]["namespace"] = namespace
        if each["kind"] == "Namespace":
            each["metadata"]["name"] = f"{namespace}-other"
    text = "\n---\n".join(json.dumps(each) for each in found)
    done = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"), input=text
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("created (server dry run)") == len(found)


def test_applied_twice_nothing_changes_and_controllers_get_their_pods_admitted(
    cluster: Cluster, base: str, folder: Path
) -> None:
    """PodSecurity checks only pods, so the pods of Deployment and StatefulSet must exist."""
    overlay = str(folder / "overlays" / "bare")
    before = generations(cluster, overlay)
    again = cluster.kubectl("apply", "-k", overlay, "--validate=strict", check=True)
    assert again.stderr == ""
    changed = [line for line in again.stdout.splitlines() if not line.endswith(" unchanged")]
    # kubectl sends the selector of every budget again, whatever it holds, because its API type has
    # the patch strategy `replace`. The server changes nothing, as the generation and a diff show.
    assert changed == ["poddisruptionbudget.policy/store configured"]
    assert generations(cluster, overlay) == before
    diff = cluster.kubectl("diff", "-k", overlay)
    assert (diff.returncode, diff.stdout) == (0, "")

    def pods() -> list[str]:
        items = cluster.get("pods", "-n", base)["items"]
        return sorted(p["metadata"]["labels"]["app.kubernetes.io/component"] for p in items)

    wait_until(lambda: pods() == ["postgres", "store", "store"], "all pods are admitted")
    labels = cluster.get("namespace", base)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    events = cluster.get("events", "-n", base)["items"]
    assert [e["message"] for e in events if e["reason"].startswith("FailedCreate")] == []


def generations(cluster: Cluster, overlay: str) -> dict[str, Any]:
    items = json.loads(cluster.kubectl("get", "-k", overlay, "-o", "json", check=True).stdout)
    return {
        f"{each['kind']}/{each['metadata']['name']}": each["metadata"].get("generation")
        for each in items["items"]
    }


def test_a_rolling_store_never_has_fewer_than_its_replicas(
    kustomized: Callable[[str], str],
) -> None:
    found = objects(kustomized("gke"))
    store = find(found, "Deployment", "store")["spec"]
    assert store["replicas"] == 2
    assert store["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    pod = store["template"]["spec"]
    (container,) = pod["containers"]
    uvicorn = 30  # timeout_graceful_shutdown in lib/tuneloop/service.py
    leaving = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= leaving + uvicorn
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    # The endpoint is removed before the process ends: failed probes, and the delay before SIGTERM.
    ready = container["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] <= leaving
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert find(found, "PodDisruptionBudget", "store")["spec"]["maxUnavailable"] == 1
    assert find(found, "Service", "store")["spec"]["type"] == "ClusterIP"
    assert not [each for each in found if each["kind"] in ("Ingress", "Secret")]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_value_of_a_secret_stands_anywhere(
    overlay: str, kustomized: Callable[[str], str]
) -> None:
    found = objects(kustomized(overlay))
    assert "Secret" not in {each["kind"] for each in found}
    for workload in (each for each in found if each["kind"] in ("Deployment", "StatefulSet")):
        for container in workload["spec"]["template"]["spec"]["containers"]:
            plain = {e["name"]: e["value"] for e in container["env"] if "value" in e}
            named = {name for name in plain if "PASSWORD" in name or "TOKEN" in name}
            assert named <= {"POSTGRES_PASSWORD_FILE"}
            assert not any(":" in v.split("@")[0][13:] for v in plain.values() if "@" in v)


def test_accounts_are_bound_to_cloud_identities(kustomized: Callable[[str], str]) -> None:
    gke, eks = objects(kustomized("gke")), objects(kustomized("eks"))
    for name in ("tuneloop-stage", "tuneloop-submitter", "tuneloop-store"):
        on_gke = find(gke, "ServiceAccount", name)["metadata"]["annotations"]
        assert on_gke == {
            "iam.gke.io/gcp-service-account": f"{name}@PROJECT_ID.iam.gserviceaccount.com"
        }
        on_eks = find(eks, "ServiceAccount", name)["metadata"]["annotations"]
        assert on_eks == {"eks.amazonaws.com/role-arn": f"arn:aws:iam::ACCOUNT_ID:role/{name}"}
    for overlay in (gke, eks):
        accounts = [each for each in overlay if each["kind"] == "ServiceAccount"]
        assert {a["automountServiceAccountToken"] for a in accounts} == {False}
    env = find(gke, "Deployment", "store")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "TUNELOOP_ARTIFACTS", "value": "gs://BUCKET/tuneloop"} in env


def test_the_submitters_role_is_the_one_that_detach_makes_and_check_asks_for(
    kustomized: Callable[[str], str],
) -> None:
    """RIGHTS in the code, the template and the base contain the same rules."""
    found = objects(kustomized("bare"))
    account, role, binding, _ = submitter()
    for made in (account, role, binding):
        standing = find(found, made["kind"], made["metadata"]["name"])
        assert made["metadata"]["labels"].items() <= standing["metadata"]["labels"].items()
    assert find(found, "Role", "tuneloop-submitter")["rules"] == role["rules"]
    asked = {
        (KINDS[kind].group_version.rpartition("/")[0], KINDS[kind].plural, sub, verb)
        for kind, verb, sub in (*RIGHTS, *GANG_RIGHTS, *QUEUE_RIGHTS)
    }
    granted = {
        (group, *(f"{resource}/".split("/")[:2]), verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert asked == granted


@pytest.mark.parametrize("account", ["tuneloop-submitter", "tuneloop-ci"])
def test_the_documented_table_of_rights_is_the_roles(
    account: str, kustomized: Callable[[str], str], repository: Path
) -> None:
    found = objects(kustomized("bare"))
    roles = [
        each["roleRef"]["name"]
        for each in found
        if each["kind"] == "RoleBinding" and account in str(each["subjects"])
    ]
    granted = {
        (resource, verb)
        for role in roles
        for rule in find(found, "Role", role)["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    text = (repository / "docs/how-to/cluster-base.md").read_text().split("## Rights")[1]
    head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    column = head.split("|").index(f" `{account}` ")
    documented = set()
    for row in rows:
        cells = row.split("|")
        resources = re.sub(r"\(.*?\)", "", cells[1]).split(",")
        verbs = cells[column].split()
        documented |= {(each.strip(), verb) for each in resources for verb in verbs}
    assert documented == granted


def test_stages_of_every_kind_fit_the_namespace(
    cluster: Cluster, base: str, repository: Path
) -> None:
    """Each golden and its pod satisfy quota, limits, priority and PodSecurity of the base."""
    serve_jobset(cluster)
    documents: list[Object] = []
    for file in sorted((repository / "tests" / "golden" / "k8s").glob("*.yaml")):
        if file.stem == "submitter":
            continue
        for number, document in enumerate(yaml.safe_load_all(file.read_text())):
            document["metadata"] |= {"namespace": base, "name": f"{file.stem[:40]}-{number}"}
            documents.append(document)
            if document["kind"] in ("Job", "JobSet"):
                pod = pod_of(document)
                pod["spec"] |= {"serviceAccountName": "tuneloop-stage"}
                pod["spec"] |= {"priorityClassName": "tuneloop-stage"}
                documents.append(pod)
    text = "\n---\n".join(json.dumps(each) for each in documents)
    done = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"), input=text
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("(server dry run)") == len(documents)


def test_the_documented_commands_make_the_secrets_that_the_store_reads(
    cluster: Cluster, base: str, repository: Path, tmp_path: Path
) -> None:
    """The first block of shell in docs/how-to/cluster-base.md, unchanged."""
    text = (repository / "docs/how-to/cluster-base.md").read_text()
    (script, *_) = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    commands = {
        "kubectl": f"exec {cluster.kubectl_path} --kubeconfig {cluster.kubeconfig}",
        "tuneloop": f"exec {sys.executable} -m tuneloop.cli",
    }
    (tmp_path / "bin").mkdir()
    for name, command in commands.items():
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\n{command} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-eu", "-c", script], cwd=tmp_path, env=env, check=True, timeout=60)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bin"], "no secret is left behind"

    def value(name: str, key: str) -> str:
        data = cluster.get("secret", name, "-n", base)["data"]
        return base64.b64decode(data[key]).decode()

    (token,) = parse_tokens(value("tuneloop-store-tokens", "tokens"), "the Secret")
    assert (token.name, token.role) == ("loop", "write")
    given = value("tuneloop-store-token", "token")
    assert hashlib.sha256(given.encode()).hexdigest() == token.digest, "no line end goes with it"
    assert re.fullmatch("[0-9a-f]{48}", value("tuneloop-postgres", "password"))


def test_the_documented_needs_of_the_base_are_its_requests(
    kustomized: Callable[[str], str], repository: Path
) -> None:
    text = (repository / "docs/how-to/cluster-base.md").read_text()
    section = text.split("## What the base needs")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    documented = {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}
    assert set(documented) == set(OVERLAYS)
    for overlay, (cpu, memory, rollout, volume) in documented.items():
        found = [
            each for each in objects(kustomized(overlay)) if "template" in each.get("spec", {})
        ]
        needs = {"cpu": Decimal(0), "memory": Decimal(0)}
        surge, volumes = Decimal(0), []
        for workload in found:
            spec = workload["spec"]
            (container,) = spec["template"]["spec"]["containers"]
            requests = container["resources"]["requests"]
            for name in needs:
                needs[name] += parse_quantity(requests[name]) * spec["replicas"]
            if workload["kind"] == "Deployment":
                surge += parse_quantity(requests["cpu"])
            for claim in spec.get("volumeClaimTemplates", []):
                volumes.append(claim["spec"]["resources"]["requests"]["storage"])
                assert "storageClassName" not in claim["spec"]
        assert [needs["cpu"], needs["memory"]] == [parse_quantity(cpu), parse_quantity(memory)]
        assert needs["cpu"] + surge == parse_quantity(rollout)
        assert volumes == ([volume] if volume else [])


def test_another_overlay_is_no_update_of_the_first(
    cluster: Cluster, base: str, folder: Path
) -> None:
    done = cluster.kubectl("apply", "-k", str(folder / "overlays" / "kind"), "--dry-run=server")
    assert done.returncode != 0
    assert "StatefulSet" in done.stderr
    assert "Forbidden" in done.stderr


def test_another_namespace_renames_everything(
    cluster: Cluster, folder: Path, tmp_path: Path
) -> None:
    up = os.path.relpath(folder, tmp_path.resolve())
    lines = {"namespace": "other", "resources": [f"{up}/overlays/bare"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    found = objects(cluster.kubectl("kustomize", str(tmp_path), check=True).stdout)
    namespaces = {each["metadata"].get("namespace") for each in found}
    assert namespaces == {"other", None}
    assert find(found, "Namespace", "other")
    bindings = [each for each in found if each["kind"] == "RoleBinding"]
    assert {s["namespace"] for each in bindings for s in each["subjects"]} == {"other"}


def test_kubectl_is_the_pinned_one(cluster: Cluster) -> None:
    """Other versions of kustomize may format the goldens differently."""
    if cluster.control_plane is None:
        pytest.skip("the cluster of TUNELOOP_TEST_KUBECONFIG may use another kubectl")
    version = json.loads(cluster.kubectl("version", "--client", "-o", "json").stdout)
    assert version["kustomizeVersion"] == "v5.8.1"
    assert version["clientVersion"]["gitVersion"] == controlplane.kubernetes_version()


def test_the_vllm_component_is_valid_restricted_and_reached_by_the_stages_that_ask(
    cluster: Cluster, namespace: str, folder: Path, tmp_path: Path
) -> None:
    for overlay in ("bare", "gke"):
        inside = Path(os.path.relpath(folder, tmp_path))
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [str(inside / "overlays" / overlay)],
            "components": [str(inside / "components" / "vllm")],
        }
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        done = cluster.kubectl("kustomize", str(tmp_path), check=True)
        found = objects(done.stdout)
        storage = [
            each["metadata"]["name"]
            for each in found
            if each["kind"] == "NetworkPolicy"
            and selects(each["spec"]["podSelector"], {COMPONENT: "vllm"})
        ]
        expected = {"bare": "object-storage-within", "gke": "metadata-server"}[overlay]
        assert sorted(storage) == sorted(
            ["default-deny", "dns", "object-storage", expected, "vllm"]
        )
    server = find(found, "Deployment", "vllm")
    service, policy = find(found, "Service", "vllm"), find(found, "NetworkPolicy", "vllm")
    labels = server["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    asking = {"key": "tuneloop.dev/stage", "operator": "In", "values": ["eval", "sample"]}
    assert [each["from"] for each in policy["spec"]["ingress"]] == [
        [{"podSelector": {"matchExpressions": [asking]}}]
    ]
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "vllm", "labels": labels},
        "spec": {**server["spec"]["template"]["spec"], "serviceAccountName": "default"},
    }
    del pod["spec"]["priorityClassName"]
    for each in (server, service, policy, find(found, "NetworkPolicy", "stages-to-vllm"), pod):
        each["metadata"]["namespace"] = namespace
    text = "\n---\n".join(json.dumps(each) for each in (server, service, policy, pod))
    done = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"), input=text
    )
    assert (done.returncode, done.stderr) == (0, "")
    for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
        assert {"memory", "ephemeral-storage"} <= container["resources"]["limits"].keys()
        assert all(
            container["resources"]["requests"][key] == limit
            for key, limit in container["resources"]["limits"].items()
        )
