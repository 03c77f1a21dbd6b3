"""Operations on one namespace of a cluster: create or adopt, list, delete, logs and events.

Objects are plain dicts. State is read with LIST and GET and never watched, because polling
survives the interruptions that end a watch. `connection.py` wraps the Kubernetes client.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tuneloop.errors import PermissionDenied, SpecError, Transient
from tuneloop.k8s.api import Created, Object
from tuneloop.k8s.client.connection import Answer, Connection
from tuneloop.k8s.events import event_time
from tuneloop.k8s.names import FINGERPRINT, VERSION

PAGE = 500
EVENT_SELECTORS = 4
"""Maximum number of objects whose events are requested one by one.

For more objects, all events of the namespace are listed.
"""
FIELD_MANAGER = "tuneloop"
GONE_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Kind:
    """API group, version and plural name of a kind of object."""

    group_version: str
    plural: str
    namespaced: bool = True


KINDS = {
    "ClusterQueue": Kind("kueue.x-k8s.io/v1beta2", "clusterqueues", namespaced=False),
    "ConfigMap": Kind("v1", "configmaps"),
    "Event": Kind("v1", "events"),
    "Job": Kind("batch/v1", "jobs"),
    "JobSet": Kind("jobset.x-k8s.io/v1alpha2", "jobsets"),
    "LocalQueue": Kind("kueue.x-k8s.io/v1beta2", "localqueues"),
    "Namespace": Kind("v1", "namespaces", namespaced=False),
    "PersistentVolumeClaim": Kind("v1", "persistentvolumeclaims"),
    "Pod": Kind("v1", "pods"),
    "PriorityClass": Kind("scheduling.k8s.io/v1", "priorityclasses", namespaced=False),
    "ResourceFlavor": Kind("kueue.x-k8s.io/v1beta2", "resourceflavors", namespaced=False),
    "ResourceQuota": Kind("v1", "resourcequotas"),
    "Role": Kind("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": Kind("rbac.authorization.k8s.io/v1", "rolebindings"),
    "Secret": Kind("v1", "secrets"),
    "ServiceAccount": Kind("v1", "serviceaccounts"),
    "Workload": Kind("kueue.x-k8s.io/v1beta2", "workloads"),
}
MUTABLE = ("ConfigMap", "Role", "RoleBinding", "ServiceAccount")
"""Kinds that `apply` may patch; objects of other kinds are created once and never patched."""


class _BeingDeleted(Transient):
    """The name still belongs to an object that is being deleted."""


class Cluster:
    """One namespace of a cluster; safe to share between threads."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        """Store the connection and the namespace; no request is sent yet."""
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
        """Load the credentials and return the cluster.

        Args:
            namespace: namespace of all operations.
            context: context of the kubeconfig; None means its current context.
            kubeconfig: path of the kubeconfig. If neither this nor `context` is given, a pod uses
                its own credentials, and other machines use the default kubeconfig.
            retry_seconds: seconds for which a failed request is retried.

        Raises:
            UsageError: there are no credentials, or the context does not exist.
        """
        return cls(Connection(context, kubeconfig, retry_seconds=retry_seconds), namespace)

    def describe(self) -> str:
        """Return the context, namespace and server, to be shown before anything is written."""
        connection = self._connection
        return (
            f"cluster  context {connection.context}, namespace {self.namespace},"
            f" server {connection.server}"
        )

    def now(self) -> datetime:
        """Return the time on the server's clock; ages are never computed with the local clock."""
        return self._connection.now()

    def in_namespace(self, namespace: str) -> Cluster:
        """Return another namespace of the same cluster, over the same connection."""
        return Cluster(self._connection, namespace)

    def close(self) -> None:
        """Close idle connections."""
        self._connection.close()

    def create(self, document: Object, *, dry_run: bool = False) -> Created:
        """Create an object with strict validation, or adopt an existing one with its fingerprint.

        If an object of this name is being deleted, wait until it is gone.

        Raises:
            SpecError: the server rejects the object, or the name belongs to an object with another
                fingerprint.
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
            raise _BeingDeleted(f"{kind} {name}: is still being deleted; run again later")
        wanted, found = (_fingerprint(each) for each in (document, standing))
        if wanted is None or wanted != found:
            raise SpecError(
                f"{kind} {name}: exists with fingerprint {(found or 'none')[:8]}, expected"
                f" {(wanted or 'none')[:8]}; rename the run or delete the existing object"
            )
        return Created(standing, adopted=True)

    def apply(self, document: Object, *, dry_run: bool = False) -> Object:
        """Apply a mutable object (server-side apply) and override other field managers."""
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
        """Apply a mutable object unless the existing one already has all its values.

        If the cluster's base has already created an account and its Role, the caller therefore
        does not need the right to write accounts and Roles. A label with another version of
        tuneloop makes no difference.
        """
        try:
            standing = self.get(document["kind"], document["metadata"]["name"])
        except PermissionDenied:
            standing = None  # credentials without the right to read may still be able to write
        metadata = document["metadata"]
        labels = {k: v for k, v in metadata.get("labels", {}).items() if k != VERSION}
        wanted = {**document, "metadata": {**metadata, "labels": labels}}
        if not _covers(standing, wanted):
            self.apply(document)

    def get(self, kind: str, name: str) -> Object | None:
        """Return the current state of an object, or None if it does not exist."""
        answer = self._connection.send(
            "GET", f"{self._path(kind)}/{name}", f"get {kind} {name}", expected=(404,)
        )
        return None if answer.status == 404 else answer.json()

    def find(self, kind: str, selector: str = "", fields: str = "") -> list[Object]:
        """Return all objects that match a label selector and a field selector."""
        while True:
            pages = list(self._pages(kind, selector, fields))
            if None not in pages:
                return [item for page in pages if page for item in page]

    def _pages(self, kind: str, selector: str, fields: str) -> Iterator[list[Object] | None]:
        """Yield pages of a list; yield None if the continue token expired and the list restarts."""
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

    def delete(self, kind: str, name: str, *, uid: str, foreground: bool = False) -> bool:
        """Delete the object with this uid and the objects that it owns.

        Args:
            kind: kind of the object.
            name: name of the object.
            uid: uid of the object.
            foreground: whether the object exists until the objects that it owns are gone;
                otherwise these are deleted later, in the background.

        Returns:
            False if the object did not exist any more, or if another object has its name.
        """
        answer = self._connection.send(
            "DELETE",
            f"{self._path(kind)}/{name}",
            f"delete {kind} {name}",
            body={
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "propagationPolicy": "Foreground" if foreground else "Background",
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
        since: datetime | None = None,
        previous: bool = False,
        limit_bytes: int = 1_000_000,
    ) -> bytes | None:
        """Return a container's log with timestamps from the kubelet, from a whole second on.

        Returns:
            None if the container never started or no longer exists, or its node cannot be reached.
        """
        query = {"container": container, "timestamps": "true", "limitBytes": str(limit_bytes)}
        if since is not None:  # the API has whole seconds
            query["sinceTime"] = f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        if previous:
            query["previous"] = "true"
        answer: Answer = self._connection.send(
            "GET",
            f"{self._path('Pod')}/{pod}/log",
            f"log of Pod {pod}",
            query=query,
            # The API server asks the kubelet, which may be gone.
            expected=(400, 404, 500, 502),
        )
        return answer.data if answer.status < 300 else None

    def events(self, uids: Collection[str], names: Collection[str] = ()) -> list[Object]:
        """Return the events about these objects, in the order in which they were last seen.

        Args:
            uids: uids of objects.
            names: names of objects; these find events about earlier objects of the same name too.
        """
        # For few objects, one request each: without a selector, the list has every run's events.
        fields = [f"involvedObject.uid={uid}" for uid in sorted(uids)]
        fields += [f"involvedObject.name={name}" for name in sorted(names)]
        if len(fields) > EVENT_SELECTORS:
            fields = [""]
        listed = [event for each in fields for event in self.find("Event", fields=each)]
        found = {
            event["metadata"]["uid"]: event
            for event in listed
            if event["involvedObject"].get("uid") in uids
            or event["involvedObject"].get("name") in names
        }
        return sorted(found.values(), key=event_time)

    def allowed(
        self, verb: str, kind: str, subresource: str = "", *, account: str | None = None
    ) -> bool:
        """Return whether the credentials, or a ServiceAccount, have a right in the namespace.

        Args:
            verb: verb of the API, such as `create`.
            kind: a key of KINDS.
            subresource: such as `log`, of a Pod.
            account: name of a ServiceAccount; None asks about the credentials in use. Asking about
                another account is a right of its own.
        """
        served = KINDS[kind]
        attributes = {
            "namespace": self.namespace,
            "verb": verb,
            "group": served.group_version.rpartition("/")[0],
            "resource": served.plural,
            "subresource": subresource,
        }
        spec: Object = {"resourceAttributes": {k: v for k, v in attributes.items() if v}}
        group = "apis/authorization.k8s.io/v1"
        if account is None:
            review, path = "SelfSubjectAccessReview", f"/{group}/selfsubjectaccessreviews"
            metadata = {}
        else:
            review = "LocalSubjectAccessReview"
            path = f"/{group}/namespaces/{self.namespace}/localsubjectaccessreviews"
            metadata = {"metadata": {"namespace": self.namespace}}
            accounts = "system:serviceaccounts"
            spec |= {
                "user": f"system:serviceaccount:{self.namespace}:{account}",
                "groups": [accounts, f"{accounts}:{self.namespace}", "system:authenticated"],
            }
        answer = self._connection.send(
            "POST",
            path,
            f"access review of {verb} {served.plural}",
            body={
                "apiVersion": "authorization.k8s.io/v1",
                "kind": review,
                **metadata,
                "spec": spec,
            },
        )
        return bool(answer.json()["status"]["allowed"])

    def serves(self, kind: str) -> bool:
        """Return whether the server serves a kind in the version that KINDS lists."""
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
    """Return whether an object has every value of another.

    Mappings may have additional keys. Lists must be equal.
    """
    if isinstance(wanted, dict):
        found = standing or {}  # the server treats missing and empty annotations alike
        return isinstance(found, dict) and all(
            _covers(found.get(key), value) for key, value in wanted.items()
        )
    return bool(standing == wanted)


def _fingerprint(document: Object) -> str | None:
    found: str | None = document["metadata"].get("annotations", {}).get(FINGERPRINT)
    return found
