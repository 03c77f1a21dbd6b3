"""Render all objects of a run for a cluster."""

from __future__ import annotations

from tuneloop.artifacts.submission import Submission, SubmittedStage
from tuneloop.k8s.rendering.render import Renderer
from tuneloop.k8s.rendering.submitter import render_submitter
from tuneloop.runs.plan import Plan


def build_submission(plan: Plan, renderer: Renderer) -> Submission:
    """Render a plan for a cluster.

    Raises:
        SpecError: a shape is impossible, or a URL means another place inside a pod.
    """
    return Submission(
        run_id=plan.run_id,
        artifacts=plan.artifacts,
        namespace=renderer.cluster.namespace,
        image=renderer.image,
        graces=renderer.cluster.graces,
        stages=[
            SubmittedStage(
                name=stage.stage, fingerprint=stage.fingerprint, documents=renderer.render(stage)
            )
            for stage in plan.stages
        ],
        submitter=render_submitter(
            renderer, plan.run_id, plan.artifacts, fingerprint=plan.stages[-1].fingerprint
        ),
    )
