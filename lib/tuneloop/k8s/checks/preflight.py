"""Checks against a cluster before anything is created: rights, accounts, queues, quota, a dry run.

The checks only read and dry-run. A check that fails to look something up becomes a warning, and
the other checks continue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuneloop.errors import PermissionDenied, TuneloopError
from tuneloop.k8s.checks.offline import Finding
from tuneloop.k8s.client.connection import parse_quantity
from tuneloop.k8s.names import QUEUE
from tuneloop.specs.cluster import ClusterSpec

if TYPE_CHECKING:
    from tuneloop.k8s.client.cluster import Cluster

Object = dict[str, Any]

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


@dataclass(frozen=True)
class Preflight:
    """The objects that are going to be created, and the cluster and spec that they are for."""

    cluster: Cluster
    objects: list[tuple[str, Object]]
    """(file name, object) in the order in which they are created."""
    spec: ClusterSpec
    artifacts: str

    @property
    def workloads(self) -> list[Object]:
        """The Jobs and JobSets among the objects."""
        return [found for _, found in self.objects if found["kind"] in ("Job", "JobSet")]

    @property
    def queues(self) -> list[str]:
        """The LocalQueues that the workloads name, sorted."""
        labels = (found["metadata"]["labels"].get(QUEUE) for found in self.workloads)
        return sorted({queue for queue in labels if queue})

    @property
    def has_gang(self) -> bool:
        """Whether any of the objects is a JobSet."""
        return any(found["kind"] == "JobSet" for found in self.workloads)


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
    gang = GANG_RIGHTS if flight.has_gang else ()
    queue = QUEUE_RIGHTS if flight.queues else ()
    for kind, verb, subresource in (*RIGHTS, *gang, *queue):
        if not flight.cluster.allowed(verb, kind, subresource):
            what = f"{kind}/{subresource}" if subresource else kind
            message = f"no right to {verb} {what}, which the run needs; ask for a Role that has it"
            yield Finding(f"rights in namespace {flight.spec.namespace}", message)


def _jobset_api(flight: Preflight) -> Iterator[Finding]:
    if flight.has_gang and not flight.cluster.serves("JobSet"):
        message = (
            "the cluster does not serve jobset.x-k8s.io/v1alpha2, which the run needs; install"
            " JobSet 0.10 or later"
        )
        yield Finding("JobSet API", message)


def _queues(flight: Preflight) -> Iterator[Finding]:
    for queue in flight.queues:
        yield from _queue(flight, queue)


def _queue(flight: Preflight, queue: str) -> Iterator[Finding]:
    place = f"LocalQueue {queue}"
    if not flight.cluster.serves("LocalQueue"):
        message = (
            "the cluster does not serve kueue.x-k8s.io/v1beta2; install Kueue or remove `queue`"
            " from execution.cluster and its stages"
        )
        yield Finding(place, message)
        return
    found = flight.cluster.get("LocalQueue", queue)
    if found is None:
        known = [each["metadata"]["name"] for each in flight.cluster.find("LocalQueue")]
        message = (
            f"does not exist, expected one of: {', '.join(known) or 'none exists'}; correct"
            " `queue` of execution.cluster or of its stage"
        )
        yield Finding(place, message)
        return
    for condition in found.get("status", {}).get("conditions", []):
        if condition["type"] == "Active" and condition["status"] == "False":
            message = f"is not active: {condition.get('message')}; ask the owner of the queue"
            yield Finding(place, message)


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
            wanted = None  # the pods have credentials without a cloud identity
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
    needs = [_needs(workload) for workload in flight.workloads]
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


def _needs(workload: Object) -> dict[str, Any]:
    """Return what one workload uses of a quota: name of the quota's resource -> amount."""
    if workload["kind"] == "JobSet":
        (replicated,) = workload["spec"]["replicatedJobs"]
        job, jobs = replicated["template"]["spec"], replicated["replicas"]
    else:
        job, jobs = workload["spec"], 1
    pods = job.get("parallelism", 1) * jobs
    needs: dict[str, Any] = {"count/jobs.batch": jobs, "pods": pods, "count/pods": pods}
    for container in job["template"]["spec"]["containers"]:
        for side in ("requests", "limits"):
            for name, text in container["resources"][side].items():
                needs[f"{side}.{name}"] = parse_quantity(text) * pods
        needs |= {name: needs[f"requests.{name}"] for name in ("cpu", "memory")}
    return needs


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
        if workload["kind"] == "Job":
            yield workload["spec"]["template"]
        else:
            for replicated in workload["spec"]["replicatedJobs"]:
                yield replicated["template"]["spec"]["template"]


Rule = Callable[[Preflight], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    *(_rights, _jobset_api, _queues, _accounts, _credentials, _store_token, _quota, _dry_run),
)
"""The checks in the order of their reports: first those that concern every object."""
