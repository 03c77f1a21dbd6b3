"""Render all objects of a run for a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from tuneloop.artifacts.runs.run_manifest import RunManifest
from tuneloop.artifacts.runs.submission import Submission, SubmittedStage
from tuneloop.k8s.rendering.render import Renderer
from tuneloop.k8s.rendering.submitter import render_submitter
from tuneloop.specs.stages import StageSpec


def build_submission(
    manifest: RunManifest, artifacts: str, stages: Sequence[StageSpec], renderer: Renderer
) -> Submission:
    """Render the stages of a run and its submitter.

    Args:
        manifest: manifest of the run.
        artifacts: URL of the artifacts, as a pod reaches them.
        stages: stage specs in the order in which they run.
        renderer: renderer of the run.

    Raises:
        SpecError: a shape is impossible.
    """
    return Submission(
        run_id=manifest.run_id,
        artifacts=artifacts,
        namespace=renderer.cluster.namespace,
        image=renderer.image,
        timeouts=renderer.cluster.timeouts,
        stages=[
            SubmittedStage(
                name=stage.stage, fingerprint=stage.fingerprint, documents=renderer.render(stage)
            )
            for stage in stages
        ],
        submitter=render_submitter(
            renderer,
            manifest.run_id,
            stages=[stage.stage for stage in stages],
            fingerprint=stages[-1].fingerprint,
            webhooks=stages[0].execution.notifications,
        ),
        run_manifest=manifest,
    )
