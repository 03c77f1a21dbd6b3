"""Render the submitter: a small CPU Job that runs a run's sequence of stages in the cluster.

Its ConfigMap contains the rendered stages, so its objects alone run the whole loop. The submitter
has its own ServiceAccount and Role. It is the only pod of tuneloop with a token for the API server,
and its Role grants only the rights that the sequence needs.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence

from tuneloop.artifacts.runs.submission import Submission
from tuneloop.k8s import names
from tuneloop.k8s.rendering.pod import (
    CREDENTIALS_ENV,
    CREDENTIALS_FOLDER,
    SPEC_FOLDER,
    Pod,
    container_env,
    render_pod,
)
from tuneloop.k8s.rendering.render import FINAL_EXIT_CODES, Object, Renderer, pod_resources
from tuneloop.k8s.rendering.templates import Template, fill
from tuneloop.specs.cluster import AcceleratorRequest, StagePlacement
from tuneloop.specs.integrations.notifications import WebhookSpec

SUBMISSION = "submission.json.gz"
"""Key of the submitter's ConfigMap, and name of the file in its pod."""
SWEEP = "sweep.json.xz"
"""The same for the submitter of a sweep."""
MOST_DEADLINE_SECONDS = 2**31 - 1
"""Maximum that the API server accepts."""
VERDICT_EXIT_CODES = sorted({*FINAL_EXIT_CODES, 3, 10, 11, 12, 20, 21, 22, 23, 30, 31})
"""Exit codes with a final verdict; 75 (API server or storage unreachable) is retried."""


def render_submitter(
    renderer: Renderer,
    run_id: str,
    *,
    stages: Sequence[str],
    fingerprint: str,
    webhooks: Sequence[WebhookSpec] = (),
    sweep_rounds: int | None = None,
) -> list[Object]:
    """Render the objects of the submitter of a run or a sweep, except its ConfigMap.

    Args:
        renderer: renderer of the run's stages, or of a member's stages.
        run_id: id of the run or the sweep.
        stages: names of the stages of the run, or of a member.
        fingerprint: fingerprint of the last stage, which covers all stages before it.
        webhooks: the webhooks that the submitter calls.
        sweep_rounds: how many members of a sweep run one after another; None for a run.

    Returns:
        ServiceAccount, Role and RoleBinding (shared by all runs of a namespace) unless the spec
        says that they exist, then the Job.
    """
    spec, templates = renderer.cluster.submitter, renderer.templates
    labels = names.run_labels(renderer.run_name, run_id, names.SUBMITTER)
    deadline = sum(renderer.cluster.placement(stage).deadline_seconds for stage in stages)
    deadline = min(deadline * (sweep_rounds or 1), MOST_DEADLINE_SECONDS)
    option, file = ("--submission", SUBMISSION) if sweep_rounds is None else ("--sweep", SWEEP)
    annotations = names.object_annotations(
        fingerprint, renderer.image, renderer.git_commit, deadline
    )
    image = spec.image or renderer.image
    shape = renderer.accelerators.shape(AcceleratorRequest())
    name = names.submitter_name(run_id)
    pod = Pod(
        command=["python", "-m", "jobs.submit", option, f"{SPEC_FOLDER}/{file}"],
        env=container_env(shape, image, {CREDENTIALS_ENV: CREDENTIALS_FOLDER})
        + _webhook_env(webhooks),
        resources=pod_resources(spec),
        service_account=spec.service_account,
        labels=labels,
        annotations=annotations,
        shape=shape,
        config_map=name,
        api_token=True,
        credentials_secret=renderer.cluster.credentials_secret,
    )
    job = renderer.render_job(
        {
            "name": name,
            "namespace": renderer.cluster.namespace,
            "labels": names.object_labels(labels, run_id, renderer.version),
            "ttl_seconds": renderer.cluster.ttl_days * 86_400,
            "final_exit_codes": VERDICT_EXIT_CODES,
            "pod": render_pod(pod, image, templates.pod),
        },
        annotations,
        StagePlacement(deadline_seconds=deadline),
    )
    return [*(_accounts(renderer) if spec.create_account else []), job]


def _webhook_env(webhooks: Sequence[WebhookSpec]) -> list[Object]:
    """Return the variables with secret URLs; without its Secret, a webhook is only not called."""
    sources = {each.url_from.env: each.url_from for each in webhooks if each.url_from}
    return [
        {
            "name": name,
            "valueFrom": {
                "secretKeyRef": {"name": source.secret, "key": source.key, "optional": True}
            },
        }
        for name, source in sorted(sources.items())
        if source.secret
    ]


def _accounts(renderer: Renderer) -> list[Object]:
    spec = renderer.cluster.submitter
    labels = {"app.kubernetes.io/name": "tuneloop", names.COMPONENT: names.SUBMITTER}
    values = {
        "name": spec.service_account,
        "namespace": renderer.cluster.namespace,
        "labels": names.object_labels(labels, spec.service_account, renderer.version),
        "account_annotations": spec.account_annotations,
    }
    items: list[Object] = fill(renderer.templates.submitter, values)["items"]
    return items


def render_config_map(submission: Submission, template: Template) -> Object:
    """Render the ConfigMap that the submitter's Job mounts; it contains the submission."""
    # Compressed to a tenth, because etcd holds it as long as the Job.
    data = gzip.compress(submission.to_json().encode(), mtime=0)
    return _config_map(submission.submitter_job, template, "submission", data)


def render_sweep_config_map(job: Object, data: bytes, template: Template) -> Object:
    """Render the ConfigMap that a sweep's submitter mounts.

    Args:
        job: the submitter's Job.
        data: the compressed sweep.
        template: template of the ConfigMap.
    """
    return _config_map(job, template, "sweep", data)


def _config_map(job: Object, template: Template, placeholder: str, data: bytes) -> Object:
    values = {key: job["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
    return fill(template, {**values, placeholder: base64.b64encode(data).decode()})
