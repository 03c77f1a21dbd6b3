"""The interface of a cluster that the backend uses; tests implement it in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

Object = dict[str, Any]
"""A Kubernetes object."""


@dataclass(frozen=True)
class Created:
    """The result of `create`."""

    object: Object
    adopted: bool
    """Whether the object existed already, with the same fingerprint."""
    warnings: tuple[str, ...] = ()
    """Warnings of the server, such as PodSecurity's."""


class ClusterApi(Protocol):
    """One namespace of one cluster; `k8s.client.cluster.Cluster` implements it with the API."""

    def now(self) -> datetime:
        """Return the time on the server's clock."""

    def create(self, document: Object, *, dry_run: bool = False) -> Created:
        """Create an object, or adopt the one of that name if it has the same fingerprint.

        Raises:
            SpecError: the server rejects the object, or the name belongs to another object.
        """

    def apply(self, document: Object, *, dry_run: bool = False) -> Object:
        """Apply a mutable object."""

    def ensure(self, document: Object) -> None:
        """Apply a mutable object unless the existing one has all its values."""

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object, or None if it does not exist."""

    def find(self, kind: str, selector: str = "", fields: str = "") -> list[Object]:
        """Return all objects that match a label selector and a field selector."""

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

    def pod_log(
        self,
        pod: str,
        *,
        container: str = "main",
        since: datetime | None = None,
        previous: bool = False,
        limit_bytes: int = 1_000_000,
    ) -> bytes | None:
        """Return the log of a container with timestamps, from a whole second on.

        Args:
            pod: name of the pod.
            container: name of the container.
            since: time of the first line, in whole seconds; None reads from the start.
            previous: whether to read the log of the container before its last restart.
            limit_bytes: maximum size of the response, which may end within a line.

        Returns:
            None if the container never started or no longer exists, or its node cannot be reached.
        """

    def events(self, uids: Collection[str], names: Collection[str] = ()) -> list[Object]:
        """Return events about the objects with these uids or names, oldest first."""
