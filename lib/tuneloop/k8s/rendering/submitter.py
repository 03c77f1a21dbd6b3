"""Render the submitter: a small CPU Job that runs a run's sequence of stages in the cluster.

The submitter has its own ServiceAccount and Role. It is the only pod of tuneloop with a token for
the API server, and its Role grants only the rights that the sequence needs.
"""

from __future__ import annotations

from tuneloop.k8s import names
from tuneloop.k8s.rendering.pod import (
    CREDENTIALS_ENV,
    CREDENTIALS_FOLDER,
    Pod,
    container_env,
    render_pod,
)
from tuneloop.k8s.rendering.render import FINAL_EXIT_CODES, Object, Renderer, pod_resources
from tuneloop.k8s.rendering.templates import fill
from tuneloop.specs.cluster import AcceleratorRequest, StagePlacement
from tuneloop.stages.table import STAGES

VERDICT_EXIT_CODES = sorted({*FINAL_EXIT_CODES, 3, 10, 11, 12, 20, 21, 22, 23, 30, 31})
"""Exit codes with a final verdict; 75 (API server or storage unreachable) is retried."""


def render_submitter(
    renderer: Renderer, run_id: str, artifacts: str, *, fingerprint: str
) -> list[Object]:
    """Render the objects of a detached run.

    Args:
        renderer: renderer of the run's stages.
        run_id: id of the run; the Job reads the submission of this run.
        artifacts: URL of the artifacts, as a pod reaches them.
        fingerprint: fingerprint of the last stage, which covers all stages before it.

    Returns:
        ServiceAccount, Role and RoleBinding (shared by all runs of a namespace), then the Job.
    """
    spec, templates = renderer.cluster.submitter, renderer.templates
    shared = fill(
        templates.submitter,
        {
            "name": spec.service_account,
            "namespace": renderer.cluster.namespace,
            "labels": {"app.kubernetes.io/name": "tuneloop", names.COMPONENT: names.SUBMITTER},
            "account_annotations": spec.account_annotations,
        },
    )
    labels = names.run_labels(renderer.run_name, run_id, names.SUBMITTER)
    deadline = sum(renderer.cluster.placement(stage).deadline_seconds for stage in STAGES)
    annotations = names.object_annotations(
        fingerprint, renderer.image, renderer.git_commit, deadline
    )
    image = spec.image or renderer.image
    shape = renderer.accelerators.shape(AcceleratorRequest())
    pod = Pod(
        command=["python", "-m", "jobs.submit", "--run", run_id, "--artifacts", artifacts],
        env=container_env(shape, image, {CREDENTIALS_ENV: CREDENTIALS_FOLDER}),
        resources=pod_resources(spec),
        service_account=spec.service_account,
        labels=labels,
        annotations=annotations,
        shape=shape,
        api_token=True,
        credentials_secret=renderer.cluster.credentials_secret,
    )
    job = renderer.render_job(
        {
            "name": names.submitter_name(run_id),
            "namespace": renderer.cluster.namespace,
            "labels": labels,
            "ttl_seconds": renderer.cluster.ttl_days * 86_400,
            "final_exit_codes": VERDICT_EXIT_CODES,
            "pod": render_pod(pod, image, templates.pod),
        },
        annotations,
        StagePlacement(deadline_seconds=deadline),
    )
    return [*shared["items"], job]
