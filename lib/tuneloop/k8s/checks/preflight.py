"""What a cluster says before anything is created: rights, accounts, queues, quota, a dry run.

One rule: only reads and dry runs. What cannot be looked up is a finding of its own, not an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuneloop.errors import PermissionDenied, TuneloopError
from tuneloop.k8s.checks.offline import Finding
from tuneloop.k8s.client.connection import parse_quantity
from tuneloop.specs.cluster import ClusterSpec

if TYPE_CHECKING:
    from tuneloop.k8s.client.cluster import Cluster

Object = dict[str, Any]

Right = tuple[str, str, str]
"""Kind, verb, subresource."""

RIGHTS: tuple[Right, ...] = (
    *(("Job", verb, "") for verb in ("create", "delete", "get")),
    *(("ConfigMap", verb, "") for verb in ("create", "patch")),
    ("Pod", "list", ""),
    ("Pod", "get", "log"),
    ("Event", "list", ""),
)
"""What whoever holds a run's sequence does, and nothing else: the submitter's Role has these, and
the next two; tests/cluster/test_base_rights.py compares them with what it is seen to do."""
GANG_RIGHTS: tuple[Right, ...] = tuple(("JobSet", verb, "") for verb in ("create", "delete", "get"))
QUEUE_RIGHTS: tuple[Right, ...] = (("Workload", "list", ""),)
IDENTITY_ANNOTATIONS = {
    "gs": "iam.gke.io/gcp-service-account",
    "s3": "eks.amazonaws.com/role-arn",
}
"""What binds an account of the cluster to one of the cloud, by scheme of the artifacts."""


@dataclass(frozen=True)
class Preflight:
    """What is going to be created, and where."""

    cluster: Cluster
    objects: list[tuple[str, Object]]
    """(file name, object) in the order in which they are created."""
    spec: ClusterSpec
    artifacts: str

    @property
    def workloads(self) -> list[Object]:
        """Jobs and JobSets."""
        return [found for _, found in self.objects if found["kind"] in ("Job", "JobSet")]

    @property
    def has_gang(self) -> bool:
        """Whether JobSets are among them."""
        return any(found["kind"] == "JobSet" for found in self.workloads)


def preflight(
    cluster: Cluster,
    documents: Mapping[str, Sequence[Object]],
    *,
    spec: ClusterSpec,
    artifacts: str,
) -> list[Finding]:
    """Ask the cluster about rendered objects.

    Args:
        cluster: the namespace that they go to.
        documents: file name -> its objects.
        spec: where the run is placed.
        artifacts: URL of the artifacts.
    """
    objects = [(file, found) for file, each in documents.items() for found in each]
    flight = Preflight(cluster, objects, spec, artifacts)
    try:
        if cluster.get("Namespace", spec.namespace) is None:
            message = f"is not there, expected it; `kubectl create namespace {spec.namespace}`"
            return [Finding(f"Namespace {spec.namespace}", f"{message}, nothing else was asked")]
    except PermissionDenied:
        pass  # whoever may work in a namespace need not be allowed to look at it
    return [finding for rule in RULES for finding in _guarded(rule, flight)]


def _guarded(rule: Rule, flight: Preflight) -> list[Finding]:
    found = []
    try:
        for finding in rule(flight):
            found.append(finding)
    except TuneloopError as e:
        found.append(Finding(rule.__name__.strip("_"), f"could not be looked up: {e}", "warning"))
    return found


def _rights(flight: Preflight) -> Iterator[Finding]:
    gang = GANG_RIGHTS if flight.has_gang else ()
    queue = QUEUE_RIGHTS if flight.spec.queue is not None else ()
    for kind, verb, subresource in (*RIGHTS, *gang, *queue):
        if not flight.cluster.allowed(verb, kind, subresource):
            what = f"{kind}/{subresource}" if subresource else kind
            message = f"may not {verb} {what}, expected it; ask for a Role with that verb"
            yield Finding(f"rights in namespace {flight.spec.namespace}", message)


def _jobset_api(flight: Preflight) -> Iterator[Finding]:
    if flight.has_gang and not flight.cluster.serves("JobSet"):
        message = "is not served, expected jobset.x-k8s.io/v1alpha2; install JobSet 0.10 or later"
        yield Finding("JobSet API", message)


def _queue(flight: Preflight) -> Iterator[Finding]:
    queue = flight.spec.queue
    if queue is None:
        return
    place = f"LocalQueue {queue}"
    if not flight.cluster.serves("LocalQueue"):
        message = "Kueue is not served, expected kueue.x-k8s.io/v1beta2; install it or drop queue"
        yield Finding(place, message)
        return
    found = flight.cluster.get("LocalQueue", queue)
    if found is None:
        known = [each["metadata"]["name"] for each in flight.cluster.find("LocalQueue")]
        message = f"is not there, expected one of {', '.join(known) or 'none'}; correct queue"
        yield Finding(place, message)
        return
    for condition in found.get("status", {}).get("conditions", []):
        if condition["type"] == "Active" and condition["status"] == "False":
            message = f"is not active: {condition.get('message')}; ask its owner"
            yield Finding(place, message)


def _accounts(flight: Preflight) -> Iterator[Finding]:
    names = {pod["spec"].get("serviceAccountName", "default") for pod in _pods(flight)}
    for name in sorted(names):
        place = f"ServiceAccount {name}"
        account = flight.cluster.get("ServiceAccount", name)
        if account is None:
            message = f"is not there, expected it; `kubectl create serviceaccount {name}`"
            yield Finding(place, f"{message} -n {flight.spec.namespace}")
            continue
        wanted = IDENTITY_ANNOTATIONS.get(flight.artifacts.split("://")[0])
        if wanted and wanted not in account["metadata"].get("annotations", {}):
            message = (
                f"has no annotation {wanted}; annotate it, unless the cloud binds the account"
                " itself to a role"
            )
            yield Finding(place, message, "warning")
        secrets = [each["name"] for each in account.get("imagePullSecrets", [])]
        for secret in secrets:
            if flight.cluster.get("Secret", secret) is None:
                message = f"names image pull secret {secret}, which is not there; create it"
                yield Finding(place, message)


def _credentials(flight: Preflight) -> Iterator[Finding]:
    name = flight.spec.credentials_secret
    if name is not None and flight.cluster.get("Secret", name) is None:
        message = f"is not there; `kubectl create secret generic {name} --from-env-file=FILE`"
        yield Finding(f"Secret {name}", f"{message} -n {flight.spec.namespace}")


def _store_token(flight: Preflight) -> Iterator[Finding]:
    name = flight.spec.store_token_secret
    if name is None:
        return
    secret = flight.cluster.get("Secret", name)
    if secret is None or "token" not in secret.get("data", {}):
        fix = f"`kubectl create secret generic {name} --from-literal=token=...`"
        message = f"is not there, or has no key `token`; {fix} -n {flight.spec.namespace}"
        yield Finding(f"Secret {name}", message)


def _quota(flight: Preflight) -> Iterator[Finding]:
    """Head-room for one stage at a time: stages follow one another."""
    needs = [_needs(workload) for workload in flight.workloads]
    for quota in flight.cluster.find("ResourceQuota"):
        status = quota.get("status", {})
        for name, hard in status.get("hard", {}).items():
            asked = max((need.get(name, 0) for need in needs), default=0)
            free = parse_quantity(hard) - parse_quantity(status.get("used", {}).get(name, "0"))
            if asked > free:
                left = format(free.normalize(), "f")
                message = f"leaves {left} of {name}, one stage needs {asked}; ask for more or wait"
                yield Finding(f"ResourceQuota {quota['metadata']['name']}", message)


def _needs(workload: Object) -> dict[str, Any]:
    """What one workload counts in a quota, by the quota's own names."""
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
            continue  # said above
        try:
            created = flight.cluster.create(found, dry_run=True)
        except TuneloopError as e:
            yield Finding(place, str(e))
            continue
        for warning in created.warnings:
            message = f"{warning}; the pods would be refused, mend the template"
            yield Finding(place, f"the API server warns: {message}")


def _pods(flight: Preflight) -> Iterator[Object]:
    for workload in flight.workloads:
        if workload["kind"] == "Job":
            yield workload["spec"]["template"]
        else:
            for replicated in workload["spec"]["replicatedJobs"]:
                yield replicated["template"]["spec"]["template"]


Rule = Callable[[Preflight], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    *(_rights, _jobset_api, _queue, _accounts, _credentials, _store_token, _quota, _dry_run),
)
"""From what stops everything to what stops one object."""
