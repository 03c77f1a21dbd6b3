"""Test that the simulated node behaves as the other tests assume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.controlplane import Cluster, wait_until
from tests.cluster.node import OUTCOME, Node

POD = {
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": 10,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}
CONTAINER = {
    "name": "main",
    "image": "test",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    "terminationMessagePolicy": "FallbackToLogsOnError",
}


@pytest.fixture
def apply(cluster: Cluster, namespace: str) -> Callable[..., str]:
    """Create a Job that runs Python code and return its name."""

    def make(
        code: str, *, job: Any = None, pod: Any = None, annotations: Any = None, **container: Any
    ) -> str:
        main = {**CONTAINER, "command": ["python", "-c", code], **container}
        template = {
            "metadata": {"annotations": annotations or {}},
            "spec": {**POD, "containers": [main], **(pod or {})},
        }
        name = f"job-{time.monotonic_ns()}"
        cluster.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"backoffLimit": 0, **(job or {}), "template": template},
            }
        )
        return name

    return make


def ended(cluster: Cluster, namespace: str, job: str, condition: str) -> Any:
    def check() -> Any:
        found = cluster.get("job", job, "-n", namespace)
        conditions = found.get("status", {}).get("conditions", [])
        return found if condition in [c["type"] for c in conditions] else None

    return wait_until(check, f"{job} is {condition}")


def pods(cluster: Cluster, namespace: str, job: str) -> list[Any]:
    found: list[Any] = cluster.get("pods", "-n", namespace, "-l", f"job-name={job}")["items"]
    return found


def terminated(pod: Any) -> Any:
    return pod["status"]["containerStatuses"][0]["state"]["terminated"]


@pytest.mark.usefixtures("node")
def test_a_pod_gets_its_environment_its_files_and_its_log_is_served(
    cluster: Cluster, namespace: str, apply: Callable[..., str]
) -> None:
    metadata = {"name": "spec", "namespace": namespace}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a.txt": "é🟡"}}
    )
    job = apply(
        "import os, sys; print(sys.argv[1:], open(os.environ['FILE']).read(), os.environ['INDEX'],"
        "os.environ['SUM'], flush=True); print('last', end='')",
        args=["$(WHO)", "$(JOB_COMPLETION_INDEX)", "$(NONE)", "$$(WHO)", "/etc/x/a.txt"],
        env=[
            {"name": "WHO", "value": "me"},
            {"name": "SUM", "value": "$(WHO)+you"},
            {"name": "FILE", "value": "/etc/x/a.txt"},
            {
                "name": "INDEX",
                "valueFrom": {
                    "fieldRef": {
                        "fieldPath": "metadata.annotations"
                        "['batch.kubernetes.io/job-completion-index']"
                    }
                },
            },
        ],
        volumeMounts=[{"name": "x", "mountPath": "/etc/x"}],
        pod={"volumes": [{"name": "x", "configMap": {"name": "spec"}}]},
        job={"completionMode": "Indexed", "completions": 2, "parallelism": 2},
    )
    ended(cluster, namespace, job, "Complete")
    first, second = sorted(pods(cluster, namespace, job), key=lambda p: p["metadata"]["name"])
    log = cluster.kubectl("logs", "-n", namespace, second["metadata"]["name"], check=True).stdout
    assert "['me', '1', '$(NONE)', '$(WHO)', " in log
    assert "é🟡 1 me+you\nlast" in log
    assert terminated(first)["exitCode"] == 0


@pytest.mark.usefixtures("node")
def test_codes_and_messages_come_back_and_the_failure_policy_acts_on_them(
    cluster: Cluster, namespace: str, apply: Callable[..., str]
) -> None:
    policy = {
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "main", "operator": "In", "values": [65]},
                }
            ]
        },
        "backoffLimit": 6,
    }
    write = "import os, sys; open(os.environ['TUNELOOP_TERMINATION_LOG'], 'w').write('why')"
    final = apply(f"{write}; sys.exit(65)", job=policy)
    again = apply("import sys; print('lost'); sys.exit(75)", job=policy)
    found = ended(cluster, namespace, final, "Failed")
    (failed,) = [c for c in found["status"]["conditions"] if c["type"] == "Failed"]
    assert failed["reason"] == "PodFailurePolicy"
    assert "failed with exit code 65 matching FailJob rule" in failed["message"]
    (pod,) = pods(cluster, namespace, final)
    assert (terminated(pod)["exitCode"], terminated(pod)["message"]) == (65, "why")
    (pod,) = wait_until(
        lambda: [p for p in pods(cluster, namespace, again) if p["status"]["phase"] == "Failed"],
        "the other pod failed",
    )
    assert terminated(pod)["message"] == "lost\n"  # the end of the log
    job = cluster.get("job", again, "-n", namespace)
    assert "Failed" not in [c["type"] for c in job["status"].get("conditions", [])]


def test_deletion_terminates_and_waits_and_eviction_is_not_counted(
    cluster: Cluster,
    namespace: str,
    apply: Callable[..., str],
    node: Node,
    tmp_path: Path,
) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "def stop(*_):\n"
        "    (folder / 'stopped').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "if (folder / 'stopped').exists(): sys.exit(0)\n"
        "(folder / 'started').touch(); time.sleep(60)"
    )
    ignore = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}
    job = apply(code, job={"podFailurePolicy": ignore, "podReplacementPolicy": "Failed"})
    wait_until((tmp_path / "started").exists, "the pod runs")
    (pod,) = pods(cluster, namespace, job)
    name = pod["metadata"]["name"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    cluster.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction), check=True)
    # backoffLimit is 0, so the Job would have failed if this failure had counted.
    ended(cluster, namespace, job, "Complete")
    assert (tmp_path / "stopped").exists()
    assert node.processes() == 0


@pytest.mark.usefixtures("node")
def test_an_attempt_has_its_deadline_and_outcomes_can_be_scripted(
    cluster: Cluster, namespace: str, apply: Callable[..., str]
) -> None:
    late = apply("import time; time.sleep(60)", pod={"activeDeadlineSeconds": 1})
    refused = apply("0", annotations={OUTCOME: '{"rejected": "UnexpectedAdmissionError"}'})
    oom = apply("import time; time.sleep(60)", annotations={OUTCOME: '{"oom": true}'})
    waits = apply(
        "0", annotations={OUTCOME: '{"waiting": {"reason": "ImagePullBackOff", "message": "no"}}'}
    )
    missing = apply(
        "0",
        pod={"volumes": [{"name": "x", "configMap": {"name": "absent"}}]},
        volumeMounts=[{"name": "x", "mountPath": "/etc/x"}],
    )
    for job in (late, refused, oom):
        ended(cluster, namespace, job, "Failed")
    assert pods(cluster, namespace, late)[0]["status"]["reason"] == "DeadlineExceeded"
    (pod,) = pods(cluster, namespace, refused)
    assert pod["status"]["reason"] == "UnexpectedAdmissionError"
    assert "containerStatuses" not in pod["status"]
    found = terminated(pods(cluster, namespace, oom)[0])
    assert (found["reason"], found["exitCode"]) == ("OOMKilled", 137)
    (pod,) = pods(cluster, namespace, waits)
    waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"]
    assert waiting == {"reason": "ImagePullBackOff", "message": "no"}
    (pod,) = pods(cluster, namespace, missing)
    events = cluster.get("events", "-n", namespace)["items"]
    about = [e for e in events if e["involvedObject"].get("uid") == pod["metadata"]["uid"]]
    (event,) = [e for e in about if e["reason"] == "FailedMount"]
    assert (
        event["message"] == 'MountVolume.SetUp failed for volume "x" : configmap "absent" not found'
    )


def test_chips_are_scheduled_where_they_are(
    cluster: Cluster,
    namespace: str,
    apply: Callable[..., str],
    make_node: Callable[..., Node],
) -> None:
    make_node()
    selector = {"cloud.google.com/gke-tpu-topology": "2x4"}
    job = apply(
        "0",
        resources={"requests": {"google.com/tpu": "8"}, "limits": {"google.com/tpu": "8"}},
        pod={"nodeSelector": selector},
    )

    def refusal() -> Any:
        found = [p.get("status", {}).get("conditions", []) for p in pods(cluster, namespace, job)]
        return [c["message"] for conditions in found for c in conditions if c["status"] == "False"]

    (message,) = wait_until(refusal, "the scheduler has looked for a node")
    assert "0/1 nodes are available" in message
    make_node(labels=selector, resources={"google.com/tpu": "8"})
    ended(cluster, namespace, job, "Complete")


@pytest.mark.usefixtures("node")
def test_a_mounted_token_is_taken_by_the_api_server(
    cluster: Cluster, namespace: str, apply: Callable[..., str]
) -> None:
    code = (
        "import os, ssl, urllib.request as r; folder = os.environ['FOLDER']\n"
        "url = 'https://%s:%s/api/v1/namespaces' % (os.environ['KUBERNETES_SERVICE_HOST'],"
        "os.environ['KUBERNETES_SERVICE_PORT'])\n"
        "token = open(folder + '/token').read()\n"
        "trust = ssl.create_default_context(cafile=folder + '/ca.crt')\n"
        "try: r.urlopen(r.Request(url, headers={'Authorization': 'Bearer ' + token}),"
        " context=trust)\n"
        "except r.HTTPError as e: print(e.read().decode())"
    )
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    job = apply(code, env=[{"name": "FOLDER", "value": folder}])
    ended(cluster, namespace, job, "Complete")
    (pod,) = pods(cluster, namespace, job)
    log = cluster.kubectl("logs", "-n", namespace, pod["metadata"]["name"], check=True).stdout
    assert f"system:serviceaccount:{namespace}:default" in log
    assert "forbidden" in log


def test_a_node_that_goes_takes_its_processes_along(
    cluster: Cluster,
    namespace: str,
    apply: Callable[..., str],
    make_node: Callable[..., Node],
    tmp_path: Path,
) -> None:
    node = make_node()
    apply(f"open({str(tmp_path / 'x')!r}, 'w'); import time; time.sleep(60)")
    wait_until((tmp_path / "x").exists, "the pod runs")
    assert node.processes() == 1
    node.__exit__()
    assert node.processes() == 0
    assert cluster.kubectl("get", "node", node.name).returncode != 0
