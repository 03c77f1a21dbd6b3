"""Checks against a cluster before anything is created: rights, accounts, queues, quota, a dry run.

The checks of the cluster only read and dry-run; the check of the artifacts writes a small object
and deletes it. A check that fails to look something up becomes a warning, and the other checks
continue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tuneloop.errors import PermissionDenied, TuneloopError
from tuneloop.k8s.checks.flight import Object, Preflight, needs_of, pods_of
from tuneloop.k8s.checks.images import images
from tuneloop.k8s.checks.offline import Finding
from tuneloop.k8s.checks.queues import fit, queues, ready_timeout
from tuneloop.k8s.client.connection import parse_quantity
from tuneloop.specs.cluster import ClusterSpec
from tuneloop.storage.probe import try_create_only

if TYPE_CHECKING:
    from tuneloop.k8s.client.cluster import Cluster

Right = tuple[str, str, str]
"""Kind, verb and subresource."""

RIGHTS: tuple[Right, ...] = (
    *(("Job", verb, "") for verb in ("create", "delete", "get")),
    *(("ConfigMap", verb, "") for verb in ("create", "patch")),
    ("Pod", "list", ""),
    ("Pod", "get", "log"),
    ("Event", "list", ""),
)
"""The rights that running a sequence of stages needs, and no others.

The submitter's Role grants these, GANG_RIGHTS and QUEUE_RIGHTS. tests/cluster/test_base_rights.py
compares them with the requests that the submitter really sends.
"""
GANG_RIGHTS: tuple[Right, ...] = (
    *(("JobSet", verb, "") for verb in ("create", "delete", "get")),
    ("Job", "list", ""),
)
QUEUE_RIGHTS: tuple[Right, ...] = (("Workload", "list", ""), ("LocalQueue", "get", ""))
IDENTITY_ANNOTATIONS = {
    "gs": "iam.gke.io/gcp-service-account",
    "s3": "eks.amazonaws.com/role-arn",
}
"""Scheme of the artifacts URL -> annotation that links a ServiceAccount to a cloud account."""


def preflight(
    cluster: Cluster,
    documents: Mapping[str, Sequence[Object]],
    *,
    spec: ClusterSpec,
    artifacts: str,
) -> list[Finding]:
    """Check rendered objects against a cluster.

    Args:
        cluster: the namespace in which the objects would be created.
        documents: file name -> its objects.
        spec: the cluster settings of the run.
        artifacts: URL of the artifacts.
    """
    objects = [(file, found) for file, each in documents.items() for found in each]
    flight = Preflight(cluster, objects, spec, artifacts)
    try:
        if cluster.get("Namespace", spec.namespace) is None:
            message = (
                "does not exist, so nothing else was checked; run"
                f" `kubectl create namespace {spec.namespace}`"
            )
            return [Finding(f"Namespace {spec.namespace}", message)]
    except PermissionDenied:
        pass  # credentials that may work in a namespace may still lack the right to read it
    return [finding for rule in RULES for finding in _guarded(rule, flight)]


def _guarded(rule: Rule, flight: Preflight) -> list[Finding]:
    found = []
    try:
        for finding in rule(flight):
            found.append(finding)
    except TuneloopError as e:
        found.append(Finding(rule.__name__.strip("_"), f"could not be checked: {e}", "warning"))
    return found


def _rights(flight: Preflight) -> Iterator[Finding]:
    for right in _missing_rights(flight, None):
        message = f"no right to {right}, which the run needs; ask for a Role that has it"
        yield Finding(f"rights in namespace {flight.spec.namespace}", message)


def _missing_rights(flight: Preflight, account: str | None) -> Iterator[str]:
    gang = GANG_RIGHTS if flight.has_gang else ()
    queue = QUEUE_RIGHTS if flight.queues else ()
    for kind, verb, subresource in (*RIGHTS, *gang, *queue):
        if not flight.cluster.allowed(verb, kind, subresource, account=account):
            yield f"{verb} {kind}/{subresource}" if subresource else f"{verb} {kind}"


def _submitter(flight: Preflight) -> Iterator[Finding]:
    """Check the account of the submitter, unless `submit --detach` creates it with its Role."""
    if flight.spec.submitter.create_account:
        return
    name = flight.spec.submitter.service_account
    if flight.cluster.get("ServiceAccount", name) is None:
        message = (
            "does not exist, and execution.cluster.submitter.create_account is false; apply the"
            " cluster base, or set create_account to true"
        )
        yield Finding(f"ServiceAccount {name}", message)
        return
    for right in _missing_rights(flight, name):
        message = (
            f"has no right to {right}, which the submitter needs; bind it to a Role with the rules"
            " of manifests/k8s/submitter.yaml"
        )
        yield Finding(f"ServiceAccount {name}", message)


def _jobset_api(flight: Preflight) -> Iterator[Finding]:
    if flight.has_gang and not flight.cluster.serves("JobSet"):
        message = (
            "the cluster does not serve jobset.x-k8s.io/v1alpha2, which the run needs; install"
            " JobSet 0.10 or later"
        )
        yield Finding("JobSet API", message)


def _priority_class(flight: Preflight) -> Iterator[Finding]:
    name = flight.spec.pod_priority_class
    if name is None:
        return
    place, found = f"PriorityClass {name}", flight.cluster.get("PriorityClass", name)
    if found is None:
        message = "does not exist; create it, or correct execution.cluster.pod_priority_class"
        yield Finding(place, message)
    elif found["value"] < 0 and flight.has_gang:
        message = (
            f"has the value {found['value']}, which JobSet writes into a label of its pods and the"
            " API server then refuses; use a class with a value of 0 or more"
        )
        yield Finding(place, message)


def _claim(flight: Preflight) -> Iterator[Finding]:
    name = flight.spec.compile_cache_claim
    if name is None:
        return
    place = f"PersistentVolumeClaim {name}"
    found = flight.cluster.get("PersistentVolumeClaim", name)
    if found is None:
        message = (
            f"does not exist in namespace {flight.spec.namespace}; create it, or correct"
            " execution.cluster.compile_cache_claim"
        )
        yield Finding(place, message)
        return
    if found.get("status", {}).get("phase") == "Lost":
        yield Finding(place, "has lost its volume; delete the claim and create it again")
    is_shared = "ReadWriteMany" in found["spec"].get("accessModes", [])
    users = [
        each for each in flight.workloads if _mounts(each, name) and needs_of(each)["pods"] > 1
    ]
    if users and not is_shared:
        message = (
            f"is not ReadWriteMany, but {users[0]['metadata']['name']} mounts it in"
            f" {needs_of(users[0])['pods']} pods, which may then not start on several nodes; use a"
            " claim with accessModes [ReadWriteMany]"
        )
        yield Finding(place, message, "warning")


def _mounts(workload: Object, claim: str) -> bool:
    return any(
        volume.get("persistentVolumeClaim", {}).get("claimName") == claim
        for pod in pods_of(workload)
        for volume in pod["spec"].get("volumes", [])
    )


def _artifacts(flight: Preflight) -> Iterator[Finding]:
    """Try the store with the credentials of this machine, which also write the run's manifest."""
    try:
        left = try_create_only(flight.artifacts)
    except TuneloopError as e:
        yield Finding("execution.artifacts", f"{e} (tried from this machine)")
        return
    if left is not None:
        message = f"a small object was written and cannot be deleted: {left}"
        yield Finding("execution.artifacts", message, "warning")


def _accounts(flight: Preflight) -> Iterator[Finding]:
    names = {pod["spec"].get("serviceAccountName", "default") for pod in _pods(flight)}
    for name in sorted(names):
        place = f"ServiceAccount {name}"
        account = flight.cluster.get("ServiceAccount", name)
        if account is None:
            message = f"does not exist; run `kubectl create serviceaccount {name}"
            yield Finding(place, f"{message} -n {flight.spec.namespace}`")
            continue
        wanted = IDENTITY_ANNOTATIONS.get(flight.artifacts.split("://")[0])
        if flight.spec.credentials_secret is not None:
            wanted = None  # the Secret's credentials are used
        if wanted and wanted not in account["metadata"].get("annotations", {}):
            message = (
                f"has no annotation {wanted}; add it, unless the cloud links the account to a role"
                " in another way"
            )
            yield Finding(place, message, "warning")
        secrets = [each["name"] for each in account.get("imagePullSecrets", [])]
        for secret in secrets:
            if flight.cluster.get("Secret", secret) is None:
                message = f"names image pull secret {secret}, which does not exist; create it"
                yield Finding(place, message)


def _credentials(flight: Preflight) -> Iterator[Finding]:
    name = flight.spec.credentials_secret
    if name is not None and flight.cluster.get("Secret", name) is None:
        fix = f"kubectl create secret generic {name} --from-env-file=FILE"
        message = f"does not exist; run `{fix} -n {flight.spec.namespace}`"
        yield Finding(f"Secret {name}", message)


def _store_token(flight: Preflight) -> Iterator[Finding]:
    name = flight.spec.store_token_secret
    if name is None:
        return
    secret = flight.cluster.get("Secret", name)
    if secret is None or "token" not in secret.get("data", {}):
        fix = f"kubectl create secret generic {name} --from-literal=token=..."
        message = f"does not exist or has no key `token`; run `{fix} -n {flight.spec.namespace}`"
        yield Finding(f"Secret {name}", message)


def _quota(flight: Preflight) -> Iterator[Finding]:
    """Check that every quota has room for the largest stage, because stages run one by one."""
    needs = [needs_of(workload) for workload in flight.workloads]
    for quota in flight.cluster.find("ResourceQuota"):
        status = quota.get("status", {})
        for name, hard in status.get("hard", {}).items():
            asked = max((need.get(name, 0) for need in needs), default=0)
            free = parse_quantity(hard) - parse_quantity(status.get("used", {}).get(name, "0"))
            if asked > free:
                left = format(free.normalize(), "f")
                message = (
                    f"leaves {left} of {name}, but one stage needs {asked}; ask for a larger quota"
                    " or wait"
                )
                yield Finding(f"ResourceQuota {quota['metadata']['name']}", message)


def _dry_run(flight: Preflight) -> Iterator[Finding]:
    for file, found in flight.objects:
        place = f"{file}: {found['kind']} {found['metadata']['name']}"
        if found["kind"] == "JobSet" and not flight.cluster.serves("JobSet"):
            continue  # _jobset_api reports it
        try:
            created = flight.cluster.create(found, dry_run=True)
        except TuneloopError as e:
            yield Finding(place, str(e))
            continue
        for warning in created.warnings:
            message = f"the API server warns that it would reject the pods: {warning}"
            yield Finding(place, f"{message}; fix the template")


def _pods(flight: Preflight) -> Iterator[Object]:
    for workload in flight.workloads:
        yield from pods_of(workload)


Rule = Callable[[Preflight], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    *(_artifacts, images, _rights, _jobset_api, queues, fit, ready_timeout, _priority_class),
    *(_accounts, _submitter, _credentials, _store_token, _claim, _quota, _dry_run),
)
"""The checks in the order of their reports: first those that concern every object."""
