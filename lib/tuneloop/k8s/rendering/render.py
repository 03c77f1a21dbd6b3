"""Render each stage of a plan as a ConfigMap with its spec and a workload (Job or JobSet).

Rendering is pure: the same plan, image, templates and accelerator table give the same bytes.
`execution.cluster` affects only where a stage runs (such as namespace, accelerator and queue), not
what it computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuneloop.errors import (
    EXIT_BUG,
    DataError,
    InputMissing,
    OutOfMemory,
    PermissionDenied,
    SpecError,
    Unavailable,
    UsageError,
)
from tuneloop.k8s import names
from tuneloop.k8s.accelerators.shapes import Accelerators, Shape
from tuneloop.k8s.rendering.pod import (
    COMPILE_CACHE,
    SPEC_FOLDER,
    Pod,
    container_env,
    gang_env,
    render_pod,
)
from tuneloop.k8s.rendering.templates import Template, fill
from tuneloop.specs.cluster import ClusterSpec, PodResources, StagePlacement
from tuneloop.specs.stages import StageSpec, dump_stage_spec
from tuneloop.stages.lifecycle.command import shared_cache_env, stage_argv
from tuneloop.stages.table import STAGES, names_in

FINAL_EXIT_CODES = sorted(
    {
        1,  # the interpreter ended before the stage could choose an exit code
        *(
            error.exit_code
            for error in (
                UsageError,
                DataError,
                InputMissing,
                Unavailable,
                OutOfMemory,
                PermissionDenied,
                SpecError,
            )
        ),
        EXIT_BUG,
        126,  # the command is not executable
        127,  # the command does not exist
        137,  # out of memory, unless an eviction explains the SIGKILL
    }
)
"""Exit codes for which a retry cannot help; Transient (75) and other signals are retried."""
BACKOFF_LIMIT = 6

Object = dict[str, Any]


@dataclass(frozen=True)
class Templates:
    """The templates, one for each kind of object."""

    pod: Template
    job: Template
    jobset: Template
    config_map: Template
    submitter: Template
    submission: Template
    sweep: Template
    table_text: str
    """Text of the accelerator table, for its comments."""


@dataclass(frozen=True)
class Renderer:
    """Renders the stages of one run; holds the inputs that all stages share."""

    run_name: str
    cluster: ClusterSpec
    image: str
    git_commit: str | None
    templates: Templates
    accelerators: Accelerators
    version: str | None = None
    """Version of tuneloop, for a label; None omits the label."""

    def shape(self, stage: StageSpec) -> Shape:
        """Return the machine shape of a stage.

        Raises:
            SpecError: the shape is impossible, or it has several hosts but the stage runs as a
                single process.
        """
        placement = self.cluster.placement(stage.stage)
        shape = self.accelerators.shape(placement.accelerator_request())
        if shape.is_multi_host and STAGES[stage.stage].scope != "gang":
            raise SpecError(
                f"execution.cluster.{stage.stage}.accelerator: {shape.key} has"
                f" {shape.hosts * shape.slices} hosts, expected one, because only"
                f" {', '.join(names_in('gang'))} can use several; choose a single-host shape"
            )
        return shape

    def chip_hours(self, stage: StageSpec) -> float:
        """Return the maximum chip-hours of a stage: all of its chips until its deadline."""
        placement = self.cluster.placement(stage.stage)
        return self.shape(stage).chips * placement.shard_count * placement.deadline_seconds / 3600

    def render(self, stage: StageSpec) -> list[Object]:
        """Render the objects of one stage, in the order in which they are applied.

        Returns:
            The ConfigMap, then a Job, or a JobSet if the shape has several hosts.
        """
        shape = self.shape(stage)
        placement = self.cluster.placement(stage.stage)
        name = names.object_name(self.run_name, stage, shape)
        labels = names.stage_labels(self.run_name, stage)
        annotations = names.object_annotations(
            stage.fingerprint, self.image, self.git_commit, placement.deadline_seconds
        )
        common = {"name": name, "namespace": self.cluster.namespace}
        common_labels = names.object_labels(labels, stage.run_id, self.version)
        spec = {
            "labels": common_labels,
            "annotations": annotations,
            "spec_json": dump_stage_spec(stage).decode(),
        }
        pod = render_pod(
            self._pod(stage, name, shape, labels, annotations), self.image, self.templates.pod
        )
        values = {
            **common,
            "labels": common_labels | names.queue_labels(self.cluster, placement),
            "ttl_seconds": self.cluster.ttl_days * 86_400,
            "final_exit_codes": FINAL_EXIT_CODES,
            "pod": pod,
        }
        if shape.is_multi_host:
            workload = self._jobset(values, annotations, labels, placement, shape)
        else:
            workload = self.render_job(values, annotations, placement)
        return [fill(self.templates.config_map, {**common, **spec}), workload]

    def _pod(
        self,
        stage: StageSpec,
        name: str,
        shape: Shape,
        labels: dict[str, str],
        annotations: dict[str, str],
    ) -> Pod:
        placement = self.cluster.placement(stage.stage)
        spec_url = f"{SPEC_FOLDER}/spec.json"
        # Programs for CPUs stay in the pod: they may contain instructions that another node lacks.
        claim = None if shape.kind == "cpu" else self.cluster.compile_cache_claim
        return Pod(
            command=["python", *stage_argv(stage, spec_url, shard_count=placement.shard_count)],
            env=container_env(shape, self.image, _cache_env(stage, shape, claim))
            + gang_env(name, shape)
            + self._store_env(stage)
            + _sink_env(stage),
            resources=pod_resources(placement),
            service_account=self.cluster.service_account,
            labels=labels,
            annotations=annotations,
            shape=shape,
            config_map=name,
            credentials_secret=self.cluster.credentials_secret,
            priority_class=self.cluster.pod_priority_class,
            compile_cache_claim=claim,
            # In a JobSet, the deadline of the child Jobs limits each attempt.
            attempt_deadline_seconds=(
                None if shape.is_multi_host else placement.attempt_deadline_seconds
            ),
        )

    def _store_env(self, stage: StageSpec) -> list[dict[str, Any]]:
        """Return the variable with the trace store's token, for the stages that use the store."""
        secret = self.cluster.store_token_secret
        if secret is None or not STAGES[stage.stage].uses_store(stage):
            return []
        reference = {"secretKeyRef": {"name": secret, "key": "token"}}
        return [{"name": "TUNELOOP_STORE_TOKEN", "valueFrom": reference}]

    def render_job(
        self, values: dict[str, Any], annotations: dict[str, str], placement: StagePlacement
    ) -> Object:
        """Fill the Job template; the Job is Indexed if the work is split into shards."""
        shard_count = placement.shard_count if placement.shard_count > 1 else None
        values = {
            **values,
            "annotations": annotations,
            "deadline_seconds": placement.deadline_seconds,
            "completion_mode": shard_count and "Indexed",
            "shard_count": shard_count,
            "backoff_limit_per_index": shard_count and BACKOFF_LIMIT,
            "backoff_limit": None if shard_count else BACKOFF_LIMIT,
        }
        return fill(self.templates.job, values)

    def _jobset(
        self,
        values: dict[str, Any],
        annotations: dict[str, str],
        labels: dict[str, str],
        placement: StagePlacement,
        shape: Shape,
    ) -> Object:
        values = {
            **values,
            "annotations": shape.jobset_annotations | annotations,
            "job_labels": labels,
            "replicated_job": names.REPLICATED_JOB,
            "slices": shape.slices,
            "hosts": shape.hosts,
            "attempt_deadline_seconds": (
                placement.attempt_deadline_seconds or placement.deadline_seconds
            ),
        }
        return fill(self.templates.jobset, values)


def _sink_env(stage: StageSpec) -> list[dict[str, Any]]:
    """Return the variables with the metrics sink's credentials; no missing key stops a stage."""
    sink = stage.execution.metrics_sink
    if sink is None or sink.secret is None or not STAGES[stage.stage].feeds_sink:
        return []
    return [
        {
            "name": f"MLFLOW_TRACKING_{key.upper()}",
            "valueFrom": {"secretKeyRef": {"name": sink.secret, "key": key, "optional": True}},
        }
        for key in ("password", "token", "username")
    ]


def _cache_env(stage: StageSpec, shape: Shape, claim: str | None) -> dict[str, str]:
    """Return the variables that let compiled programs outlive the pod."""
    artifacts = stage.execution.artifacts
    if claim is not None:
        return {"JAX_COMPILATION_CACHE_DIR": f"{COMPILE_CACHE}/jax"}
    return shared_cache_env(artifacts) if shape.kind != "cpu" and "://" in artifacts else {}


def pod_resources(placement: PodResources) -> dict[str, str]:
    """Return the requests and limits of a pod, without accelerators."""
    return {
        "cpu": placement.cpu,
        "memory": placement.memory,
        "ephemeral-storage": placement.ephemeral_storage,
    }
