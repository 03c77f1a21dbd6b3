"""Render the in-cluster submitter of a sweep and create it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuneloop.artifacts.runs.submission import Object
from tuneloop.artifacts.sweeps.submission import SweepSubmission
from tuneloop.k8s.api import ClusterApi
from tuneloop.k8s.backend import PlannedRun, placed_renderer, shipped_manifests
from tuneloop.k8s.rendering.folder import submitter_files
from tuneloop.k8s.rendering.submitter import render_submitter, render_sweep_config_map
from tuneloop.k8s.submitters import create_submitter
from tuneloop.specs.cluster import DEFAULT_DEADLINE_SECONDS
from tuneloop.specs.integrations.notifications import WebhookSpec
from tuneloop.specs.target import Target


@dataclass(frozen=True)
class SweepJob:
    """What the submitter's Job depends on, besides the members."""

    sweep_id: str
    fingerprint: str
    """Digest of the last stages of all members."""
    rounds: int
    """How many members run one after another."""
    webhooks: Sequence[WebhookSpec]
    """Webhooks of all members."""


def render_sweep_submitter(job: SweepJob, member: PlannedRun, target: Target) -> list[Object]:
    """Render the submitter of a sweep, except its ConfigMap.

    Args:
        job: the Job.
        member: the first member, which has the cluster and the image of the submitter.
        target: settings of the command line.

    Raises:
        SpecError: the spec has no cluster or no image.
    """
    # Other members may have more steps than this one.
    renderer = placed_renderer(member, target, least_deadline_seconds=DEFAULT_DEADLINE_SECONDS)
    return render_submitter(
        renderer,
        job.sweep_id,
        stages=[stage.stage for stage in member.stages],
        fingerprint=job.fingerprint,
        webhooks=job.webhooks,
        sweep_rounds=job.rounds,
    )


def create_sweep_submitter(cluster: ClusterApi, submission: SweepSubmission) -> None:
    """Create the submitter of a sweep with its account, or adopt the running one."""
    create_submitter(cluster, submission.sweep.submitter, _config_map(submission))


def sweep_files(submission: SweepSubmission) -> dict[str, str]:
    """Return the files of the folder that `tuneloop render` writes: relative path -> text."""
    templates = shipped_manifests().templates
    return submitter_files(submission.sweep.submitter, _config_map(submission), templates)


def _config_map(submission: SweepSubmission) -> Object:
    template = shipped_manifests().templates.sweep
    return render_sweep_config_map(submission.sweep.submitter_job, submission.dump(), template)
