"""Create the Job of a submitter, and make it the owner of what it creates."""

from __future__ import annotations

from collections.abc import Sequence

from tuneloop.artifacts.runs.submission import name_of
from tuneloop.errors import StageFailed
from tuneloop.k8s.api import ClusterApi, Object
from tuneloop.k8s.watch import create_with_config_map, has_ended

OwnerReference = dict[str, str]


def create_submitter(cluster: ClusterApi, submitter: Sequence[Object], config_map: Object) -> None:
    """Create a submitter, or adopt a running one; one that has ended is replaced.

    Args:
        cluster: the namespace.
        submitter: accounts, which are created unless they exist, then the Job.
        config_map: ConfigMap that the Job mounts.
    """
    *accounts, job = submitter
    for document in accounts:
        cluster.ensure(document)
    found = cluster.get("Job", name_of(job))
    if found is not None and has_ended(found):
        # The Job is from an earlier attempt. The objects that it owns are deleted with it.
        cluster.delete("Job", name_of(job), uid=found["metadata"]["uid"])
    create_with_config_map(cluster, config_map, job)


def owner_of(cluster: ClusterApi, job: Object) -> OwnerReference:
    """Return the reference to a submitter's Job for the objects that it creates.

    Raises:
        StageFailed: the Job does not exist any more.
    """
    name = name_of(job)
    found = cluster.get("Job", name)
    if found is None:
        raise StageFailed(
            f"Job {name}: does not exist, expected the Job of this pod; submit the run again",
            stage="submit",
            exit_code=30,
        )
    uid: str = found["metadata"]["uid"]
    return {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": name, "uid": uid}
