"""What holds a run's sequence in the cluster: a small CPU Job with its own account and Role.

One rule: it is the only pod of tuneloop with a token, and its Role allows what the sequence does
and nothing else.
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
"""A verdict stays what it is; 75, API server or storage out of reach, is tried again."""


def render_submitter(
    renderer: Renderer, run_id: str, artifacts: str, *, fingerprint: str
) -> list[Object]:
    """Render the objects of a detached run.

    Args:
        renderer: of the run's stages.
        run_id: the run whose submission the Job reads.
        artifacts: URL of the artifacts, as a pod sees them.
        fingerprint: of the last stage, which names all before it.

    Returns:
        ServiceAccount, Role and RoleBinding, which all runs of a namespace share, then the Job.
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
