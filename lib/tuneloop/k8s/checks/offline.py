"""Offline checks for manifests that a cluster would reject or run badly.

Each check is a pure function of one object. A finding names the file, the object, the field and
the fix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuneloop.k8s.checks.schemas import Object, Problem, missing_package, schema_problems
from tuneloop.k8s.names import ALLOW_TAG, COMPONENT, POD_SECURITY, SUBMITTER

CONFIG_MAP_BYTES = 1_048_576
ANNOTATION_BYTES = 262_144
HOST_NAME = 63
DAY_SECONDS = 86_400
VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image"),
    *("persistentVolumeClaim", "projected", "secret"),
}
"""Volume types that PodSecurity `restricted` allows."""
WHOLE = ("memory", "ephemeral-storage")
"""Resources that need equal request and limit, because a pod cannot give them back."""

_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_RULE_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Finding:
    """One problem that a check has found."""

    place: str
    """File, object and field."""
    message: str
    """What was found, what was expected, and how to fix it."""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        """Return the finding as one sentence."""
        return f"{self.place}: {self.message}"


def check_documents(documents: Mapping[str, Sequence[Object]]) -> list[Finding]:
    """Check rendered objects, file by file.

    Without the packages of the extra k8s, the rules of tuneloop are checked, and a warning names
    what is not.

    Args:
        documents: file name -> its objects.
    """
    findings, missing = [], missing_package()
    rules = [rule for rule in RULES if missing is None or rule is not _quantities]
    if missing is not None:
        message = (
            f"not checked against the schemas of Kubernetes, because Python module {missing} is not"
            " installed; install the k8s extra, for example from the lock requirements/base.txt"
        )
        findings.append(Finding("objects", message, "warning"))
    for file, objects in documents.items():
        for found in objects:
            place = f"{file}: {found.get('kind')} {found.get('metadata', {}).get('name')}"
            schema = [] if missing else schema_problems(found)
            # The rules assume that an object matches its schema, so they run only if it does.
            problems = schema or [problem for rule in rules for problem in rule(found)]
            findings += [Finding(f"{place}: {path}", problem) for path, problem in problems]
    return findings + _across(documents)


def _across(documents: Mapping[str, Sequence[Object]]) -> list[Finding]:
    """Find duplicate objects, and ConfigMaps that are used but not created."""
    findings, seen = [], set()
    for file, objects in documents.items():
        for found in objects:
            metadata = found.get("metadata", {})
            key = (found.get("kind"), metadata.get("namespace"), metadata.get("name"))
            if key in seen:
                place = f"{file}: {key[0]} {key[2]}"
                findings.append(Finding(place, "is defined twice, expected once; remove one"))
            seen.add(key)
    for file, objects in documents.items():
        for found in objects:
            for path, pod in _pods(found):
                for number, volume in enumerate(pod["spec"].get("volumes", [])):
                    name = volume.get("configMap", {}).get("name")
                    wanted = ("ConfigMap", found["metadata"].get("namespace"), name)
                    if name and wanted not in seen:
                        place = f"{file}: {found['kind']} {found['metadata']['name']}: {path}"
                        message = f"ConfigMap {name} is in none of the files; add it"
                        findings.append(Finding(f"{place}.spec.volumes[{number}]", message))
    return findings


def _pods(document: Object) -> Iterator[tuple[str, Object]]:
    """Yield the pod templates of a workload, each with its path."""
    for path, job in _jobs(document):
        yield f"{path}.template", job["template"]


def _jobs(document: Object) -> Iterator[tuple[str, Object]]:
    """Yield the Job specs of a workload, each with its path."""
    if document["kind"] == "Job":
        yield "spec", document["spec"]
    if document["kind"] == "JobSet":
        for number, replicated in enumerate(document["spec"]["replicatedJobs"]):
            yield f"spec.replicatedJobs[{number}].template.spec", replicated["template"]["spec"]


def _containers(document: Object) -> Iterator[tuple[str, Object]]:
    for path, pod in _pods(document):
        for kind in ("initContainers", "containers"):
            for number, container in enumerate(pod["spec"].get(kind, [])):
                yield f"{path}.spec.{kind}[{number}]", container


# --- rules ------------------------------------------------------------------------------------


def _names(document: Object) -> Iterator[Problem]:
    metadata, kind = document["metadata"], document["kind"]
    name = metadata["name"]
    if kind in ("Job", "JobSet") and not _DNS_LABEL.fullmatch(name):
        message = f"found {name!r}, expected a letter, then only a-z, 0-9 and -; rename it"
        yield "metadata.name", message
    elif not _DNS_NAME.fullmatch(name) or len(name) > 253:
        yield "metadata.name", f"found {name!r}, expected a DNS name; rename it"
    longest = max((len(host) for host in _host_names(document)), default=0)
    if longest > HOST_NAME:
        yield (
            "metadata.name",
            f"the host names of its pods have {longest} characters, expected at most {HOST_NAME};"
            " shorten the name of the run",
        )


def _host_names(document: Object) -> Iterator[str]:
    name = document["metadata"]["name"]
    if document["kind"] == "Job":
        index = f"-{document['spec'].get('completions', 1) - 1}"
        yield f"{name}{index if document['spec'].get('completionMode') == 'Indexed' else ''}-xxxxx"
    if document["kind"] == "JobSet":
        for replicated in document["spec"]["replicatedJobs"]:
            last = replicated.get("replicas", 1) - 1
            pods = replicated["template"]["spec"].get("completions", 1) - 1
            yield f"{name}-{replicated['name']}-{last}-{pods}-xxxxx"


def _labels(document: Object) -> Iterator[Problem]:
    carriers = [("metadata", document["metadata"])]
    carriers += [(f"{path}.metadata", pod.get("metadata", {})) for path, pod in _pods(document)]
    for path, metadata in carriers:
        for key, value in metadata.get("labels", {}).items():
            if not _LABEL_VALUE.fullmatch(value):
                yield (
                    f"{path}.labels[{key}]",
                    f"found {value!r}, expected at most 63 characters of A-Z a-z 0-9 - _ and .;"
                    " shorten it or replace the other characters",
                )
        size = sum(len(k.encode()) + len(v.encode()) for k, v in _annotations(metadata))
        if size > ANNOTATION_BYTES:
            yield (
                f"{path}.annotations",
                f"have {size} bytes, expected at most {ANNOTATION_BYTES}; shorten them",
            )


def _annotations(metadata: Object) -> list[tuple[str, str]]:
    return list(metadata.get("annotations", {}).items())


def _pod_security(document: Object) -> Iterator[Problem]:
    """Check the rules of PodSecurity `restricted` in the Pod Security Standards of Kubernetes.

    Pods that the renderer has marked as `baseline` may run as root.
    """
    for path, pod in _pods(document):
        spec = pod["spec"]
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(key):
                message = "found true, but PodSecurity `restricted` forbids it; remove it"
                yield f"{path}.spec.{key}", message
        for number, volume in enumerate(spec.get("volumes", [])):
            for kind in set(volume) - {"name"} - VOLUMES:
                message = f"found {kind}, but PodSecurity `restricted` forbids it; remove it"
                yield f"{path}.spec.volumes[{number}]", message
        inherited = spec.get("securityContext", {})
        for place, container in _containers(document):
            own = container.get("securityContext", {})
            if pod.get("metadata", {}).get("annotations", {}).get(POD_SECURITY) != "baseline":
                yield from _restricted(place, inherited, own)
            yield from _baseline(place, own, container)


def _restricted(place: str, inherited: Object, own: Object) -> Iterator[Problem]:
    both = {**inherited, **own}
    wanted: list[tuple[str, Any, bool]] = [
        ("runAsNonRoot", True, both.get("runAsNonRoot") is True),
        ("runAsUser", "a number above 0", both.get("runAsUser", 0) > 0),
        ("allowPrivilegeEscalation", False, own.get("allowPrivilegeEscalation") is False),
        ("capabilities.drop", ["ALL"], "ALL" in own.get("capabilities", {}).get("drop", [])),
        (
            "capabilities.add",
            "none but NET_BIND_SERVICE",
            set(own.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
        ),
        (
            "seccompProfile.type",
            "RuntimeDefault",
            both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
        ),
    ]
    for field, value, holds in wanted:
        if not holds:
            message = f"expected {value}, because PodSecurity `restricted` requires it; set it"
            yield f"{place}.securityContext.{field}", message


def _baseline(place: str, own: Object, container: Object) -> Iterator[Problem]:
    if own.get("privileged"):
        message = "expected none, because PodSecurity `baseline` and `restricted` forbid it"
        yield f"{place}.securityContext.privileged", f"{message}; remove it"
    if any("hostPort" in port for port in container.get("ports", [])):
        message = "found a hostPort, but PodSecurity `restricted` forbids it; remove it"
        yield f"{place}.ports", message


def _mounts(document: Object) -> Iterator[Problem]:
    for path, pod in _pods(document):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        for place, container in _containers(document):
            for number, mount in enumerate(container.get("volumeMounts", [])):
                if mount["name"] not in volumes:
                    message = f"volume {mount['name']} is not defined in {path}; add it there"
                    yield f"{place}.volumeMounts[{number}]", message


def _quantities(document: Object) -> Iterator[Problem]:
    from tuneloop.k8s.client.connection import parse_quantity

    for place, container in _containers(document):
        resources = container.get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        numbers: dict[tuple[str, str], Any] = {}
        for side, quantities in (("requests", requests), ("limits", limits)):
            for name, text in quantities.items():
                try:
                    numbers[side, name] = parse_quantity(text)
                except ValueError:
                    message = f"found {text!r}, expected a quantity such as 500m or 4Gi; correct it"
                    yield f"{place}.resources.{side}[{name}]", message
        for name in sorted({*requests, *limits, *WHOLE}):
            asked, allowed = numbers.get(("requests", name)), numbers.get(("limits", name))
            whole = name in WHOLE or "/" in name
            if whole and (asked is None or asked != allowed):
                message = "expected equal request and limit; set both to the same value"
                yield f"{place}.resources[{name}]", message
            elif asked is not None and allowed is not None and asked > allowed:
                message = f"the request {asked} is above the limit {allowed}; lower the request"
                yield f"{place}.resources[{name}]", message
            if "/" in name and asked is not None and asked % 1:
                message = f"found {asked}, expected a whole number; correct it"
                yield f"{place}.resources[{name}]", message


def _job_rules(document: Object) -> Iterator[Problem]:
    for path, job in _jobs(document):
        containers = {c["name"] for c in job["template"]["spec"]["containers"]}
        if job["template"]["spec"].get("restartPolicy") != "Never":
            message = "expected Never, because podFailurePolicy requires it; set it"
            yield f"{path}.template.spec.restartPolicy", message
        if "activeDeadlineSeconds" not in job:
            yield f"{path}.activeDeadlineSeconds", "is missing; set deadline_seconds"
        rules = job.get("podFailurePolicy", {}).get("rules", [])
        if not 0 < len(rules) <= 20:
            message = f"found {len(rules)} rules, expected 1 to 20; add or remove rules"
            yield f"{path}.podFailurePolicy.rules", message
        for number, rule in enumerate(rules):
            codes = rule.get("onExitCodes")
            if codes is None:
                continue
            values, place = codes["values"], f"{path}.podFailurePolicy.rules[{number}].onExitCodes"
            if values != sorted(set(values)) or len(values) > 255 or 0 in values:
                message = "expected 1 to 255 distinct codes in ascending order, without 0; fix them"
                yield f"{place}.values", message
            if codes.get("containerName") not in containers:
                found = codes.get("containerName")
                message = f"found {found}, expected one of {containers}; correct it"
                yield f"{place}.containerName", message


def _lifetime(document: Object) -> Iterator[Problem]:
    if document["kind"] not in ("Job", "JobSet"):
        return
    spec = document["spec"]
    ttl = spec.get("ttlSecondsAfterFinished", DAY_SECONDS)
    if ttl < DAY_SECONDS:
        message = (
            f"found {ttl}, expected at least {DAY_SECONDS}, so that `tuneloop wait` still finds"
            " the end state; raise it"
        )
        yield "spec.ttlSecondsAfterFinished", message
    if "suspend" in spec:
        message = (
            "expected it unset, because Kueue sets it and applying would override that; remove it"
        )
        yield "spec.suspend", message


def _identity(document: Object) -> Iterator[Problem]:
    """Check that images have digests and that only the submitter gets an API token."""
    for path, pod in _pods(document):
        metadata, spec = pod.get("metadata", {}), pod["spec"]
        is_submitter = metadata.get("labels", {}).get(COMPONENT) == SUBMITTER
        if spec.get("automountServiceAccountToken") is not False and not is_submitter:
            message = "expected false, because only the submitter calls the API server; set it"
            yield f"{path}.spec.automountServiceAccountToken", message
        if metadata.get("annotations", {}).get(ALLOW_TAG) == "true":
            continue
        for place, container in _containers(document):
            if not _DIGEST.fullmatch(container["image"]):
                message = f"found {container['image']}, expected REPOSITORY@sha256:DIGEST"
                yield f"{place}.image", f"{message}; look up the digest in the registry"


def _config_map(document: Object) -> Iterator[Problem]:
    if document["kind"] != "ConfigMap":
        return
    size = sum(len(key) + len(value.encode()) for key, value in document.get("data", {}).items())
    if size > CONFIG_MAP_BYTES:
        yield "data", f"has {size} bytes, expected at most {CONFIG_MAP_BYTES}; shorten the spec"


def _gang(document: Object) -> Iterator[Problem]:
    if document["kind"] != "JobSet":
        return
    for number, rule in enumerate(document["spec"].get("failurePolicy", {}).get("rules", [])):
        if not _RULE_NAME.fullmatch(rule["name"]):
            message = (
                f"found {rule['name']!r}, expected a letter, then only letters, digits, `_`, `,`"
                " and `:`; rename it"
            )
            yield f"spec.failurePolicy.rules[{number}].name", message
    for path, job in _jobs(document):
        if job.get("backoffLimit") != 0:
            message = "expected 0, because a JobSet restarts all its pods together; set it"
            yield f"{path}.backoffLimit", message


Rule = Callable[[Object], Iterator[Problem]]
RULES: tuple[Rule, ...] = (
    _names,
    _labels,
    _pod_security,
    _mounts,
    _quantities,
    _job_rules,
    _lifetime,
    _identity,
    _config_map,
    _gang,
)
