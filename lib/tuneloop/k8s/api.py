"""The parts of a cluster that the backend uses, so that tests can put a twin in its place."""

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
    """One namespace of one cluster; `k8s.client.cluster.Cluster` is the real one."""

    def now(self) -> datetime:
        """Return the time on the server's clock."""

    def create(self, document: Object, *, dry_run: bool = False) -> Created:
        """Create an object, or adopt the one of that name if it has the same fingerprint.

        Raises:
            SpecError: the server rejects it, or the name belongs to another object.
        """

    def apply(self, document: Object, *, dry_run: bool = False) -> Object:
        """Apply a mutable object."""

    def ensure(self, document: Object) -> None:
        """Apply a mutable object unless the existing one has all its values."""

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object; None if there is none."""

    def find(self, kind: str, selector: str = "", fields: str = "") -> list[Object]:
        """Return all objects that a label selector and a field selector choose."""

    def delete(self, kind: str, name: str, *, uid: str) -> bool:
        """Delete this very object and, in the background, what it owns.

        Returns:
            False if it was gone already, or if another object has its name.
        """

    def pod_log(
        self,
        pod: str,
        *,
        container: str = "main",
        tail_lines: int | None = None,
        limit_bytes: int = 1_000_000,
    ) -> bytes | None:
        """Return the log of a container; None if it never started or is gone."""

    def events(self, uids: Collection[str]) -> list[Object]:
        """Return events about these objects, oldest first."""
