"""Offline checks: rendered objects pass, and each check finds its mistake and names the place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import REPOSITORY
from tests.k8s.rendering.test_render import rendered, submitter
from tuneloop.k8s.checks.offline import check_documents
from tuneloop.specs.cluster import StagePlacement

Object = dict[str, Any]


def said(*objects: Object) -> list[str]:
    return [str(finding) for finding in check_documents({"f.yaml": objects})]


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "tests" / "golden" / "k8s").glob("*.yaml")), ids=lambda f: f.stem
)
def test_what_is_rendered_has_no_finding(file: Path) -> None:
    documents = list(yaml.safe_load_all(file.read_text()))
    if file.stem == "submitter":
        documents.append(submitter_config_map(documents[-1]))
    assert check_documents({file.name: documents}) == []


def submitter_config_map(job: Object) -> Object:
    """Return the ConfigMap that the Job mounts; the goldens do not hold its compressed content."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": job["metadata"]}


def pod(job: Object) -> Object:
    found: Object = job["spec"]["template"]["spec"]
    return found


def main(job: Object) -> Object:
    found: Object = pod(job)["containers"][0]
    return found


def child(jobset: Object) -> Object:
    found: Object = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    return found


def code_rule(job: Object) -> Object:
    found: Object = job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]
    return found


JOB_MISTAKES: dict[str, tuple[Callable[[Object], Any], str, str]] = {
    "unknown field": (
        lambda j: j["spec"].update(retries=3),
        *("spec", "Additional properties are not allowed ('retries' was unexpected)"),
    ),
    "wrong type": (
        lambda j: j["spec"].update(backoffLimit="6"),
        *("spec.backoffLimit", "is not of type 'integer'"),
    ),
    "name": (lambda j: j["metadata"].update(name="1e3"), "metadata.name", "expected a letter"),
    "long name": (
        lambda j: j["metadata"].update(name="a" * 60),
        *("metadata.name", "host names of its pods have 66 characters, expected at most 63"),
    ),
    "label": (
        lambda j: j["metadata"]["labels"].update(a="x" * 64),
        *("metadata.labels[a]", "expected at most 63"),
    ),
    "annotations": (
        lambda j: j["metadata"]["annotations"].update(a="x" * 262_144),
        *("metadata.annotations", "expected at most 262144"),
    ),
    "host network": (
        lambda j: pod(j).update(hostNetwork=True),
        *("spec.template.spec.hostNetwork", "`restricted` forbids it"),
    ),
    "host path": (
        lambda j: pod(j)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
        *("spec.template.spec.volumes[3]", "found hostPath"),
    ),
    "root": (
        lambda j: main(j)["securityContext"].update(runAsUser=0),
        *("spec.template.spec.containers[0].securityContext.runAsUser", "a number above 0"),
    ),
    "escalation": (
        lambda j: main(j)["securityContext"].pop("allowPrivilegeEscalation"),
        *("containers[0].securityContext.allowPrivilegeEscalation", "expected False"),
    ),
    "capabilities": (
        lambda j: main(j)["securityContext"].update(capabilities={"add": ["SYS_ADMIN"]}),
        *("securityContext.capabilities.add", "expected none but NET_BIND_SERVICE"),
    ),
    "seccomp": (
        lambda j: pod(j)["securityContext"].pop("seccompProfile"),
        *("securityContext.seccompProfile.type", "expected RuntimeDefault"),
    ),
    "host port": (
        lambda j: main(j).update(ports=[{"containerPort": 1, "hostPort": 1}]),
        *("containers[0].ports", "found a hostPort"),
    ),
    "mount": (
        lambda j: main(j)["volumeMounts"].append({"name": "no", "mountPath": "/x"}),
        *("containers[0].volumeMounts[3]", "volume no is not defined"),
    ),
    "quantity": (
        lambda j: main(j)["resources"]["limits"].update(cpu="2 cores"),
        *("containers[0].resources.limits[cpu]", "expected a quantity such as 500m"),
    ),
    "memory is overcommitted": (
        lambda j: main(j)["resources"]["limits"].update(memory="8Gi"),
        *("containers[0].resources[memory]", "expected equal request and limit"),
    ),
    "request above limit": (
        lambda j: main(j)["resources"]["limits"].update(cpu="1"),
        *("containers[0].resources[cpu]", "the request 2 is above the limit 1"),
    ),
    "half a chip": (
        lambda j: [
            main(j)["resources"][s].update({"a.b/c": "500m"}) for s in ("requests", "limits")
        ],
        *("containers[0].resources[a.b/c]", "expected a whole number"),
    ),
    "restart in place": (
        lambda j: pod(j).update(restartPolicy="OnFailure"),
        *("spec.template.spec.restartPolicy", "expected Never"),
    ),
    "no deadline": (
        lambda j: j["spec"].pop("activeDeadlineSeconds"),
        *("spec.activeDeadlineSeconds", "is missing; set deadline_seconds"),
    ),
    "unsorted codes": (
        lambda j: code_rule(j).update(values=[2, 1]),
        *("podFailurePolicy.rules[1].onExitCodes.values", "codes in ascending order, without 0"),
    ),
    "another container": (
        lambda j: code_rule(j).update(containerName="side"),
        *("rules[1].onExitCodes.containerName", "found side"),
    ),
    "short life": (
        lambda j: j["spec"].update(ttlSecondsAfterFinished=60),
        *("spec.ttlSecondsAfterFinished", "expected at least 86400"),
    ),
    "suspended": (
        lambda j: j["spec"].update(suspend=True),
        *("spec.suspend", "because Kueue sets it"),
    ),
    "token": (
        lambda j: pod(j).pop("automountServiceAccountToken"),
        *("spec.automountServiceAccountToken", "only the submitter"),
    ),
    "tag": (
        lambda j: main(j).update(image="tuneloop:latest"),
        *("containers[0].image", "expected REPOSITORY@sha256:DIGEST"),
    ),
}


@pytest.mark.parametrize("name", JOB_MISTAKES)
def test_a_mistake_in_a_job_is_found_with_its_place(name: str) -> None:
    change, place, phrase = JOB_MISTAKES[name]
    config_map, job = rendered("export")
    change(job)
    (found, *_) = [line for line in said(config_map, job) if place in line]
    assert found.startswith(f"f.yaml: Job {job['metadata']['name']}: ")
    assert phrase in found


JOBSET_MISTAKES: dict[str, tuple[Callable[[Object], Any], str, str]] = {
    "unknown field": (
        lambda j: j["spec"]["failurePolicy"].update(maxRestart=3),
        *("spec.failurePolicy.maxRestart", "is not a field of a JobSet"),
    ),
    "wrong type": (
        lambda j: j["spec"]["replicatedJobs"][0].update(replicas="2"),
        *("spec.replicatedJobs[0].replicas", "valid integer"),
    ),
    "unknown field of a child": (
        lambda j: child(j).update(retries=3),
        *("spec.replicatedJobs[0].template.spec", "is not a field of a JobSet"),
    ),
    "rule name": (
        lambda j: j["spec"]["failurePolicy"]["rules"][0].update(name="no-dash"),
        *("spec.failurePolicy.rules[0].name", "found 'no-dash'"),
    ),
    "a pod is replaced": (
        lambda j: child(j).update(backoffLimit=6),
        *("template.spec.backoffLimit", "expected 0"),
    ),
    "long name": (
        lambda j: j["metadata"].update(name="a" * 52),
        *("metadata.name", "host names of its pods have 64 characters"),
    ),
}


@pytest.mark.parametrize("name", JOBSET_MISTAKES)
def test_a_mistake_in_a_jobset_is_found_with_its_place(name: str) -> None:
    change, place, phrase = JOBSET_MISTAKES[name]
    config_map, jobset = rendered("train", StagePlacement(accelerator="v5e-4x4"))
    change(jobset)
    (found, *_) = [line for line in said(config_map, jobset) if place in line]
    assert phrase in found


def test_files_are_checked_together() -> None:
    config_map, job = rendered("export")
    assert ["is in none of the files" in line for line in said(job)] == [True]
    assert ["is defined twice" in line for line in said(config_map, job, job)] == [True]
    config_map["data"]["spec.json"] = "é" * 600_000
    assert ["expected at most 1048576" in line for line in said(config_map, job)] == [True]
    assert "found 'Deployment'" in said({"kind": "Deployment", "metadata": {"name": "d"}})[0]


def test_the_submitters_token_and_a_tag_that_is_allowed_pass() -> None:
    *accounts, job = submitter()
    assert said(*accounts, submitter_config_map(job), job) == []
    assert "in none of the files" in said(*accounts, job)[0]
    config_map, job = rendered("export")
    main(job)["image"] = "tuneloop:v1"
    job["spec"]["template"]["metadata"]["annotations"]["tuneloop.dev/allow-tag"] = "true"
    assert said(config_map, job) == []
