"""Sweeps that run without this process: `submit --detach`, `render`, and `cancel` of their Job."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

from tuneloop.cli.control import sweeps
from tuneloop.cli.shared.options import print_json

if TYPE_CHECKING:
    from tuneloop.artifacts.runs.cancellation import Cancellation
    from tuneloop.artifacts.sweeps.submission import SubmittedSweep, SweepSubmission
    from tuneloop.cli.shared.option_groups import ClusterOptions, RunOptions
    from tuneloop.k8s.backend import KubernetesBackend
    from tuneloop.runs.sweep.plan import SweepPlan
    from tuneloop.runs.sweep.spec_file import SweepFile


def plan_for_cluster(
    run: RunOptions, sweep: SweepFile, cluster: ClusterOptions | None = None
) -> tuple[SweepPlan[KubernetesBackend], SweepSubmission]:
    """Plan all members of a sweep, and render them with the Job that submits them."""
    from tuneloop.artifacts.sweeps.submission import SubmittedSweep, SweepSubmission
    from tuneloop.k8s.backend import KubernetesBackend
    from tuneloop.k8s.sweeps import SweepJob, render_sweep_submitter

    made = sweeps.plan_members(run, sweep, KubernetesBackend, cluster)
    first = made.members[0].prepared
    rounds = math.ceil(len(made.members) / made.settings.parallelism)
    job = SweepJob(made.sweep_id, made.fingerprint, rounds, made.webhooks)
    submitter = render_sweep_submitter(job, first.plan, run.target(cluster))
    namespace = first.backend.submission.namespace
    submitted = SubmittedSweep(
        sweep_id=made.sweep_id, artifacts=made.artifacts, namespace=namespace, submitter=submitter
    )
    submission = SweepSubmission(
        artifacts=made.artifacts,
        sweep=submitted,
        manifest=made.manifest(),
        members=[each.prepared.backend.submission for each in made.members],
    )
    return made, submission


def submit_detached(
    made: SweepPlan[KubernetesBackend], submission: SweepSubmission, *, as_json: bool
) -> None:
    """Write all members to the artifacts, and let a Job in the cluster run the sweep."""
    from tuneloop.artifacts.sweeps.store import forget_failures, save_sweep
    from tuneloop.artifacts.sweeps.submission import save_submitted_sweep
    from tuneloop.k8s.sweeps import create_sweep_submitter
    from tuneloop.runs.sequence import Sequence

    submission.dump()  # refuses a sweep that is too large before anything is written
    cluster = made.members[0].prepared.backend.cluster
    save_sweep(submission.manifest, made.artifacts)
    save_submitted_sweep(submission.sweep)
    left = 0
    for member in made.members:
        backend = member.prepared.start()
        if (stage := Sequence(backend).next_stage()) is not None:
            left += 1
            backend.remove_failed(stage)
    forget_failures(submission.manifest, made.artifacts)
    if left:
        create_sweep_submitter(cluster, submission)
    if as_json:
        print_json({"sweep_id": made.sweep_id, "detached": True, "members_to_run": left})
    elif left:
        typer.echo(f"{made.sweep_id}: a Job in the cluster runs {left} members; follow with:")
        typer.echo(f"tuneloop status {made.sweep_id} --follow --artifacts {made.artifacts}")
    else:
        typer.echo(f"{made.sweep_id}: every member is done, nothing to submit")


def cancel_submitter(
    submitted: SubmittedSweep, cluster: ClusterOptions, wait_seconds: float
) -> Cancellation:
    """Delete the Job that runs a sweep, and with it the workloads that it has created."""
    from tuneloop.k8s.cancellation import delete_workloads

    client = cluster.connect(submitted.namespace)
    return delete_workloads(client, submitted.sweep_id, [submitted.submitter_job], wait_seconds)
