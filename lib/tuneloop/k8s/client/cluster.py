"""One namespace of one cluster: create or adopt, list, delete, logs, events; objects are dicts.

One rule: state is asked for by LIST and GET, never watched: a poll survives everything that ends a
watch. The Kubernetes client itself is behind `connection.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tuneloop.errors import PermissionDenied, SpecError, Transient
from tuneloop.k8s.api import Created, Object
from tuneloop.k8s.client.connection import Answer, Connection
from tuneloop.k8s.names import FINGERPRINT

PAGE = 500
EVENT_SELECTORS = 4
"""Objects whose events are asked for one by one; of more, all of the namespace at once."""
FIELD_MANAGER = "tuneloop"
GONE_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Kind:
    """Where a kind of object is served."""

    group_version: str
    plural: str
    namespaced: bool = True


KINDS = {
    "ConfigMap": Kind("v1", "configmaps"),
    "Event": Kind("v1", "events"),
    "Job": Kind("batch/v1", "jobs"),
    "JobSet": Kind("jobset.x-k8s.io/v1alpha2", "jobsets"),
    "LocalQueue": Kind("kueue.x-k8s.io/v1beta2", "localqueues"),
    "Namespace": Kind("v1", "namespaces", namespaced=False),
    "Pod": Kind("v1", "pods"),
    "ResourceQuota": Kind("v1", "resourcequotas"),
    "Role": Kind("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": Kind("rbac.authorization.k8s.io/v1", "rolebindings"),
    "Secret": Kind("v1", "secrets"),
    "ServiceAccount": Kind("v1", "serviceaccounts"),
    "Workload": Kind("kueue.x-k8s.io/v1beta2", "workloads"),
}
MUTABLE = ("ConfigMap", "Role", "RoleBinding", "ServiceAccount")
"""Kinds that are applied; the others are created once and never patched."""


class _BeingDeleted(Transient):
    """The name is taken by an object on its way out."""


class Cluster:
    """One namespace; safe to share between threads."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        """Nothing is sent yet."""
        self.namespace = namespace
        self._connection = connection

    @classmethod
    def connect(
        cls,
        namespace: str,
        *,
        context: str | None = None,
        kubeconfig: str | None = None,
        retry_seconds: float = 60.0,
    ) -> Cluster:
        """Load credentials: what is named, else the pod's own, else the default kubeconfig.

        Raises:
            UsageError: there are none, or no such context.
        """
        return cls(Connection(context, kubeconfig, retry_seconds=retry_seconds), namespace)

    def describe(self) -> str:
        """Where this writes, for people to read before it does."""
        connection = self._connection
        return (
            f"cluster  context {connection.context}, namespace {self.namespace},"
            f" server {connection.server}"
        )

    def now(self) -> datetime:
        """The server's clock; ages are never taken from this machine's."""
        return self._connection.now()

    def close(self) -> None:
        """Close idle connections."""
        self._connection.close()

    def create(self, document: Object, *, dry_run: bool = False) -> Created:
        """Create an object with strict validation, or adopt the one that stands under its name.

        An object of that name that is being deleted is waited for.

        Raises:
            SpecError: the server refuses it, or the name is taken by an object that was made for
                something else.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(_BeingDeleted),
            stop=stop_after_delay(self._connection.retry_seconds),
            wait=wait_fixed(GONE_POLL_SECONDS),
            reraise=True,
        )
        return retrying(self._create_or_adopt, document, dry_run)

    def _create_or_adopt(self, document: Object, dry_run: bool) -> Created:
        kind, name = document["kind"], document["metadata"]["name"]
        query = {"fieldValidation": "Strict", "fieldManager": FIELD_MANAGER}
        answer = self._connection.send(
            "POST",
            self._path(kind),
            f"create {kind} {name}",
            query={**query, "dryRun": "All"} if dry_run else query,
            body=document,
            expected=(409,),
        )
        if answer.status != 409:
            return Created(answer.json(), adopted=False, warnings=answer.warnings)
        standing = self.get(kind, name)
        if standing is None or "deletionTimestamp" in standing["metadata"]:
            raise _BeingDeleted(f"{kind} {name}: is being deleted; run again when it is gone")
        wanted, found = (_fingerprint(each) for each in (document, standing))
        if wanted is None or wanted != found:
            raise SpecError(
                f"{kind} {name}: exists with fingerprint {(found or 'none')[:8]}, expected"
                f" {(wanted or 'none')[:8]}; rename the run or delete that object"
            )
        return Created(standing, adopted=True)

    def apply(self, document: Object, *, dry_run: bool = False) -> Object:
        """Make a mutable object look as given (server-side apply), whoever changed it before."""
        kind, name = document["kind"], document["metadata"]["name"]
        if kind not in MUTABLE:
            raise ValueError(f"{kind} is created once and never patched")
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": "true"}
        return self._connection.send(
            "PATCH",
            f"{self._path(kind)}/{name}",
            f"apply {kind} {name}",
            query={**query, "dryRun": "All"} if dry_run else query,
            body=document,
            content_type="application/apply-patch+yaml",
        ).json()

    def ensure(self, document: Object) -> None:
        """Apply a mutable object unless all that it says stands already.

        Where the cluster's base has made an account and its Role, nobody who uses them needs the
        right to write accounts and Roles.
        """
        try:
            standing = self.get(document["kind"], document["metadata"]["name"])
        except PermissionDenied:
            standing = None  # who may not look may still be allowed to write
        if not _covers(standing, document):
            self.apply(document)

    def get(self, kind: str, name: str) -> Object | None:
        """The object as it stands; None if there is none."""
        answer = self._connection.send(
            "GET", f"{self._path(kind)}/{name}", f"get {kind} {name}", expected=(404,)
        )
        return None if answer.status == 404 else answer.json()

    def find(self, kind: str, selector: str = "", fields: str = "") -> list[Object]:
        """All objects that a label selector and a field selector choose."""
        while True:
            pages = list(self._pages(kind, selector, fields))
            if None not in pages:
                return [item for page in pages if page for item in page]

    def _pages(self, kind: str, selector: str, fields: str) -> Iterator[list[Object] | None]:
        """Page after page; None where the continue token has expired: begin again."""
        chosen = {"labelSelector": selector, "fieldSelector": fields, "limit": str(PAGE)}
        query = {key: value for key, value in chosen.items() if value}
        while True:
            answer = self._connection.send(
                "GET", self._path(kind), f"list {kind}", query=query, expected=(410,)
            )
            if answer.status == 410:
                yield None
                return
            value = answer.json()
            yield value["items"]
            if not (token := value["metadata"].get("continue")):
                return
            query["continue"] = token

    def delete(self, kind: str, name: str, *, uid: str) -> bool:
        """Delete this very object and, in the background, what it owns.

        Returns:
            False if it was gone already, or another object has its name.
        """
        answer = self._connection.send(
            "DELETE",
            f"{self._path(kind)}/{name}",
            f"delete {kind} {name}",
            body={
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "propagationPolicy": "Background",
                "preconditions": {"uid": uid},
            },
            expected=(404, 409),
        )
        return answer.status not in (404, 409)

    def pod_log(
        self,
        pod: str,
        *,
        container: str = "main",
        tail_lines: int | None = None,
        limit_bytes: int = 1_000_000,
    ) -> bytes | None:
        """The log of a container as the kubelet has it; None if it never started or is gone."""
        query = {"container": container, "timestamps": "true", "limitBytes": str(limit_bytes)}
        if tail_lines is not None:
            query["tailLines"] = str(tail_lines)
        answer: Answer = self._connection.send(
            "GET",
            f"{self._path('Pod')}/{pod}/log",
            f"log of Pod {pod}",
            query=query,
            expected=(400, 404, 500, 502),  # the kubelet is asked by the API server: it may be gone
        )
        return answer.data if answer.status < 300 else None

    def events(self, uids: Collection[str]) -> list[Object]:
        """Events about these objects, in the order in which they were last seen."""
        # By object while these are few: without a selector come those of every run.
        fields = [f"involvedObject.uid={uid}" for uid in sorted(uids)]
        if len(fields) > EVENT_SELECTORS:
            fields = [""]
        found = [event for each in fields for event in self.find("Event", fields=each)]
        about = [event for event in found if event["involvedObject"].get("uid") in uids]
        return sorted(about, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")

    def allowed(self, verb: str, kind: str, subresource: str = "") -> bool:
        """Whether these credentials may do this in the namespace."""
        served = KINDS[kind]
        attributes = {
            "namespace": self.namespace,
            "verb": verb,
            "group": served.group_version.rpartition("/")[0],
            "resource": served.plural,
            "subresource": subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {k: v for k, v in attributes.items() if v}},
        }
        answer = self._connection.send(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            f"access review of {verb} {served.plural}",
            body=review,
        )
        return bool(answer.json()["status"]["allowed"])

    def serves(self, kind: str) -> bool:
        """Whether the server knows this kind in this version."""
        served = KINDS[kind]
        root = "/api" if "/" not in served.group_version else "/apis"
        answer = self._connection.send(
            "GET", f"{root}/{served.group_version}", f"look up {kind}", expected=(404,)
        )
        if answer.status == 404:
            return False
        return any(found["name"] == served.plural for found in answer.json()["resources"])

    def _path(self, kind: str) -> str:
        served = KINDS[kind]
        root = "/api" if "/" not in served.group_version else "/apis"
        place = f"/namespaces/{self.namespace}" if served.namespaced else ""
        return f"{root}/{served.group_version}{place}/{served.plural}"


def _covers(standing: Any, wanted: Any) -> bool:
    """Whether an object has every value of another; it may have more keys, never more entries."""
    if isinstance(wanted, dict):
        found = standing or {}  # no annotations and empty ones are the same to the server
        return isinstance(found, dict) and all(
            _covers(found.get(key), value) for key, value in wanted.items()
        )
    return bool(standing == wanted)


def _fingerprint(document: Object) -> str | None:
    found: str | None = document["metadata"].get("annotations", {}).get(FINGERPRINT)
    return found
