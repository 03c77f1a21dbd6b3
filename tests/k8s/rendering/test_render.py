from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import REPOSITORY, stage_specs
from tuneloop import errors
from tuneloop.errors import SpecError
from tuneloop.k8s.checks.offline import check_documents
from tuneloop.k8s.names import image_identity, object_name, submitter_name
from tuneloop.k8s.rendering import render
from tuneloop.k8s.rendering.manifests import load_manifests
from tuneloop.k8s.rendering.render import Renderer
from tuneloop.k8s.rendering.submitter import render_submitter
from tuneloop.k8s.rendering.yaml_out import dump
from tuneloop.specs.cluster import AcceleratorRequest, ClusterSpec, StagePlacement
from tuneloop.specs.integrations.metrics_sink import MetricsSinkSpec
from tuneloop.specs.integrations.notifications import WebhookSpec
from tuneloop.stages.pipelines import TRAINING_STAGES

DIGEST = "sha256:" + "0964917e" * 8
IMAGE = f"registry.example/team/tuneloop@{DIGEST}"
MANIFESTS = load_manifests(str(REPOSITORY / "manifests" / "k8s"))
ACCELERATORS = MANIFESTS.accelerators
ONE_HOST = [
    key
    for key in ACCELERATORS.keys()
    if not ACCELERATORS.shape(StagePlacement(accelerator=key).accelerator_request()).is_multi_host
]


def rendered(
    stage: str, placement: StagePlacement | None = None, **cluster: Any
) -> list[dict[str, Any]]:
    name = "import_" if stage == "import" else stage
    spec = ClusterSpec(namespace="training", **cluster)
    if placement is not None:
        spec = spec.model_copy(update={name: placement})
    return renderer(spec).render(stage_specs()[stage])


def renderer(spec: ClusterSpec, run_name: str = "demo", image: str = IMAGE) -> Renderer:
    return Renderer(run_name, spec, image, "0964917", MANIFESTS.templates, ACCELERATORS)


KINDS = {"cpu": "cpu", "tpu": "v5e-2x2", "gpu": "l4-1"}
GOLDENS: dict[str, tuple[str, StagePlacement | None, dict[str, Any]]] = {
    **{
        f"{stage}-{kind}": (stage, StagePlacement(accelerator=key), {})
        for stage in TRAINING_STAGES
        for kind, key in KINDS.items()
    },
    "export-cpu-16-shards": ("export", StagePlacement(shard_count=16), {}),
    "eval-gpu-4-shards": ("eval", StagePlacement(accelerator="l4-1", shard_count=4), {}),
    "export-cpu-credentials": (
        *("export", None),
        {"credentials_secret": "tuneloop-credentials", "store_token_secret": "store"},
    ),
    "train-v5e-2x4-8t-spot": (
        "train",
        StagePlacement(accelerator="v5e-2x4-8t", spot=True, cpu="24", memory="48Gi"),
        {"queue": "tpu", "priority_class": "research"},
    ),
    "train-h100-80gb-8": (
        "train",
        StagePlacement(accelerator="h100-80gb-8", reservation="team-a", memory="400Gi"),
        {"service_account": "trainer", "ttl_days": 7},
    ),
    "train-v6e-4x4": ("train", StagePlacement(accelerator="v6e-4x4", spot=True), {}),
    "train-v5p-2x2x4-2-slices": (
        "train",
        StagePlacement(accelerator="v5p-2x2x4", slices=2, attempt_deadline_seconds=7200),
        {"queue": "tpu"},
    ),
    "train-h100-80gb-8x4": (
        "train",
        StagePlacement(
            accelerator="h100-80gb-8x4",
            topology_level="required",
            topology_key="cloud.google.com/gce-topology-block",
        ),
        {"queue": "gpu"},
    ),
}


@pytest.mark.golden
@pytest.mark.parametrize("name", GOLDENS)
def test_rendered_objects_snapshot(name: str, golden: Callable[[str, str], None]) -> None:
    stage, placement, cluster = GOLDENS[name]
    golden(f"k8s/{name}.yaml", dump(rendered(stage, placement, **cluster)))


@pytest.mark.parametrize("name", GOLDENS)
def test_yaml_reads_back_as_it_was(name: str) -> None:
    stage, placement, cluster = GOLDENS[name]
    documents = rendered(stage, placement, **cluster)
    assert list(yaml.safe_load_all(dump(documents))) == documents


@pytest.mark.golden
def test_submitter_snapshot(golden: Callable[[str, str], None]) -> None:
    golden("k8s/submitter.yaml", dump(submitter()))


def submitter(*webhooks: dict[str, Any], **spec: Any) -> list[dict[str, Any]]:
    cluster = ClusterSpec(namespace="training", **spec)
    called = [WebhookSpec.model_validate(each) for each in webhooks]
    return render_submitter(
        renderer(cluster),
        "demo-12345e67",
        stages=("export", "train", "eval", "import"),
        fingerprint="9" * 64,
        webhooks=called,
    )


def test_the_url_of_a_webhook_comes_from_its_secret_and_holds_up_no_pod() -> None:
    *_, job = submitter(
        {"url_from": {"secret": "slack", "key": "hook"}, "format": "slack"},
        {"url_from": {"env": "OTHER_URL"}},
        {"url": "http://10.0.0.1/"},
    )
    (container,) = job["spec"]["template"]["spec"]["containers"]
    variables = [each for each in container["env"] if "secretKeyRef" in each.get("valueFrom", {})]
    reference = {"name": "slack", "key": "hook", "optional": True}
    assert variables == [{"name": "TUNELOOP_WEBHOOK_URL", "valueFrom": {"secretKeyRef": reference}}]


def test_the_credentials_of_the_metrics_sink_reach_the_stages_that_send() -> None:
    sink = MetricsSinkSpec(kind="mlflow", url="http://h", secret="mlflow")
    for name, stage in stage_specs().items():
        execution = stage.execution.model_copy(update={"metrics_sink": sink})
        spec = stage.model_copy(update={"execution": execution})
        job = renderer(ClusterSpec(namespace="training")).render(spec)[1]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        found = {
            each["name"]: each["valueFrom"]["secretKeyRef"]
            for each in container["env"]
            if each["name"].startswith("MLFLOW_")
        }
        expected = {
            f"MLFLOW_TRACKING_{key.upper()}": {"name": "mlflow", "key": key, "optional": True}
            for key in ("username", "password", "token")
        }
        assert found == (expected if name in ("train", "eval") else {})


def test_the_submitter_alone_has_a_token_and_its_role_has_no_star() -> None:
    account, role, binding, job = submitter(
        submitter={"service_account": "who", "account_annotations": {"a.b/c": "on"}}
    )
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is True
    assert account["metadata"]["annotations"] == {"a.b/c": "on"}
    assert account["automountServiceAccountToken"] is False
    assert binding["subjects"][0]["name"] == job["spec"]["template"]["spec"]["serviceAccountName"]
    assert not [rule for rule in role["rules"] if "*" in str(rule)]
    for stage in TRAINING_STAGES:
        assert (
            rendered(stage)[1]["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
        )


def test_credentials_are_named_and_reach_stages_and_submitter_alike() -> None:
    spec: dict[str, Any] = {"credentials_secret": "s3", "pod_priority_class": "low"}
    jobs = [*(rendered(stage, **spec)[1] for stage in TRAINING_STAGES), submitter(**spec)[-1]]
    for job in jobs:
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "credentials"]
        assert mount["mountPath"] == "/etc/tuneloop-credentials"
        assert mount["readOnly"] is True
        assert {"name": "credentials", "secret": {"secretName": "s3"}} in pod["volumes"]
    classes = [job["spec"]["template"]["spec"].get("priorityClassName") for job in jobs]
    assert classes == ["low"] * len(TRAINING_STAGES) + [None], (
        "the submitter has the default priority"
    )


def test_the_submitter_is_started_again_only_if_it_could_not_reach_something() -> None:
    job = submitter()[-1]
    (_, rule) = job["spec"]["podFailurePolicy"]["rules"]
    assert 75 not in rule["onExitCodes"]["values"]
    assert set(errors.VERB_EXIT_CODES.values()) <= set(rule["onExitCodes"]["values"])


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def test_the_pod_gets_the_argv_and_the_spec_of_the_stage() -> None:
    for stage, spec in stage_specs().items():
        config_map, job = rendered(stage)
        data = json.loads(config_map["data"]["spec.json"])
        assert data == spec.model_dump(mode="json", by_alias=True)
        (container,) = pod_of(job)["containers"]
        assert container["command"] == [
            *("python", "-m", "jobs", stage, "--spec", "/etc/tuneloop/spec.json")
        ]
        assert container["image"] == IMAGE
        (volume,) = [v for v in pod_of(job)["volumes"] if v["name"] == "spec"]
        assert volume["configMap"]["name"] == config_map["metadata"]["name"]


def test_final_exit_codes_are_all_but_the_transient() -> None:
    """Codes must match those of the stages; an unlisted permanent error would be retried."""
    classes = [
        c
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.TuneloopError)
    ]
    of_verbs = {errors.StageFailed, errors.QuotaExceeded, errors.GateFailed, errors.StillRunning}
    codes = {c.exit_code for c in classes if c not in of_verbs} - {errors.Transient.exit_code}
    assert set(render.FINAL_EXIT_CODES) == codes | {1, 126, 127, 137}
    (_, rule) = rendered("export")[1]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == sorted(set(rule["onExitCodes"]["values"]))
    assert errors.Transient.exit_code not in rule["onExitCodes"]["values"]
    assert 0 not in rule["onExitCodes"]["values"]


@pytest.mark.parametrize("key", ONE_HOST)
def test_every_single_host_shape_renders(key: str) -> None:
    _, job = rendered("train", StagePlacement(accelerator=key))
    shape = ACCELERATORS.shape(StagePlacement(accelerator=key).accelerator_request())
    (container,) = pod_of(job)["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert shape.resources.items() <= container["resources"]["limits"].items()
    assert all(isinstance(q, str) for q in container["resources"]["limits"].values())
    assert pod_of(job).get("nodeSelector", {}) == shape.node_selector
    names = [volume["name"] for volume in pod_of(job)["volumes"]]
    assert ("shm" in names) == (shape.dev_shm_size is not None)
    assert [mount["name"] for mount in container["volumeMounts"]] == names


MANY_HOSTS = [key for key in ACCELERATORS.keys() if key not in ONE_HOST]


@pytest.mark.parametrize("key", MANY_HOSTS)
def test_every_multi_host_shape_renders_as_a_gang(key: str) -> None:
    for slices in (1, 2) if ACCELERATORS.shape(gang(key)).kind == "tpu" else (1,):
        _, jobset = rendered("train", StagePlacement(accelerator=key, slices=slices))
        shape = ACCELERATORS.shape(gang(key, slices))
        (replicated,) = jobset["spec"]["replicatedJobs"]
        job = replicated["template"]["spec"]
        assert jobset["kind"] == "JobSet"
        assert (replicated["replicas"], job["completions"]) == (slices, shape.hosts)
        assert job["parallelism"] == shape.hosts
        pod = job["template"]["spec"]
        env = {e["name"]: e for e in pod["containers"][0]["env"]}
        assert env["TUNELOOP_PROCESSES"]["value"] == str(shape.hosts * slices)
        assert ("TUNELOOP_COORDINATOR" in env) == (shape.kind == "gpu")
        assert pod["nodeSelector"] == shape.node_selector


@pytest.mark.parametrize(
    ("key", "teraflops"), [("v5e-1x1", "197"), ("tpu7x-2x2x1", "1153.5"), ("b200-8", None)]
)
def test_a_pod_knows_the_peak_rate_of_its_devices(key: str, teraflops: str | None) -> None:
    _, job = rendered("train", StagePlacement(accelerator=key))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in container["env"]}
    assert env.get("TUNELOOP_DEVICE_PEAK_TFLOPS") == teraflops


@pytest.mark.parametrize(
    ("key", "artifacts", "cache"),
    [
        ("v5e-1x1", "gs://bucket/artifacts", "gs://bucket/artifacts/jax_cache"),
        ("l4-1", "s3://bucket/artifacts", "s3://bucket/artifacts/jax_cache"),
        ("l4-1", "/mnt/artifacts", "/home/tuneloop/.cache/tuneloop/jax"),
        ("cpu", "gs://bucket/artifacts", "/home/tuneloop/.cache/tuneloop/jax"),
    ],
)
def test_programs_of_accelerators_are_compiled_once(key: str, artifacts: str, cache: str) -> None:
    spec = ClusterSpec(namespace="training", train=StagePlacement(accelerator=key))
    stage = stage_specs()["train"]
    execution = stage.execution.model_copy(update={"artifacts": artifacts})
    _, job = renderer(spec).render(stage.model_copy(update={"execution": execution}))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in container["env"]}
    assert env["JAX_COMPILATION_CACHE_DIR"] == cache
    # XLA's own caches cannot be on an object store.
    assert (env.get("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES") == "none") == ("://" in cache)


@pytest.mark.parametrize(("key", "has_claim"), [("v6e-4x4", True), ("l4-1", True), ("cpu", False)])
def test_compiled_programs_can_be_kept_on_a_claim(key: str, has_claim: bool) -> None:
    placement = StagePlacement(accelerator=key)
    workload = rendered("train", placement, compile_cache_claim="programs")[1]
    if workload["kind"] == "JobSet":
        workload = workload["spec"]["replicatedJobs"][0]["template"]
    pod = pod_of(workload)
    (container,) = pod["containers"]
    found = [each.get("persistentVolumeClaim") for each in pod["volumes"]]
    claims = [each for each in found if each is not None]
    assert claims == ([{"claimName": "programs"}] if has_claim else [])
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    env = {each["name"]: each.get("value") for each in container["env"]}
    cache = env["JAX_COMPILATION_CACHE_DIR"]
    assert cache == (
        f"{mounted['compile-cache']}/jax" if has_claim else "/home/tuneloop/.cache/tuneloop/jax"
    )
    assert check_documents({"f.yaml": rendered("train", placement, compile_cache_claim="p")}) == []


def gang(key: str, slices: int = 1) -> AcceleratorRequest:
    return AcceleratorRequest(accelerator=key, slices=slices)


def test_a_gang_fails_whole_and_the_jobset_decides() -> None:
    _, jobset = rendered("train", StagePlacement(accelerator="v5e-4x4"))
    spec = jobset["spec"]
    assert [rule["action"] for rule in spec["failurePolicy"]["rules"]] == [
        "RestartJobSetAndIgnoreMaxRestarts",
        "FailJobSet",
    ]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    assert job["activeDeadlineSeconds"] == 86_400
    assert [rule["action"] for rule in job["podFailurePolicy"]["rules"]] == ["FailJob", "FailJob"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("stage", ["export", "eval", "import"])
def test_several_hosts_are_refused_where_one_process_works(stage: str) -> None:
    with pytest.raises(SpecError, match="v5e-4x4 has 4 hosts, expected one"):
        rendered(stage, StagePlacement(accelerator="v5e-4x4"))


def test_shards_make_an_indexed_job_that_is_told_its_index() -> None:
    _, job = rendered("export", StagePlacement(shard_count=16))
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 16, 16)
    assert spec["backoffLimitPerIndex"] == 6
    assert "backoffLimit" not in spec
    command = pod_of(job)["containers"][0]["command"]
    assert command[-4:] == ["--index", "$(JOB_COMPLETION_INDEX)", "--count", "16"]
    _, job = rendered("export")
    assert {"completionMode", "completions", "backoffLimitPerIndex"}.isdisjoint(job["spec"])


def test_the_import_stage_alone_gets_the_stores_token_and_from_a_secret() -> None:
    for stage in TRAINING_STAGES:
        _, job = rendered(stage, store_token_secret="store-token")
        (container,) = pod_of(job)["containers"]
        found = [e for e in container["env"] if e["name"] == "TUNELOOP_STORE_TOKEN"]
        reference = {"secretKeyRef": {"name": "store-token", "key": "token"}}
        expected = [{"name": "TUNELOOP_STORE_TOKEN", "valueFrom": reference}]
        assert found == (expected if stage == "import" else [])


def test_attempts_and_the_whole_have_their_deadlines() -> None:
    placement = StagePlacement(deadline_seconds=7200, attempt_deadline_seconds=600)
    _, job = rendered("eval", placement)
    assert (job["spec"]["activeDeadlineSeconds"], pod_of(job)["activeDeadlineSeconds"]) == (
        7200,
        600,
    )
    _, jobset = rendered(
        "train", placement.model_copy(update={"accelerator": "v5e-4x4"}), queue="q"
    )
    child = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert child["activeDeadlineSeconds"] == 600
    assert "activeDeadlineSeconds" not in child["template"]["spec"]
    assert jobset["metadata"]["labels"]["kueue.x-k8s.io/max-exec-time-seconds"] == "7200"


def test_an_impossible_shape_is_refused() -> None:
    with pytest.raises(SpecError, match="v5e-2x4-8t"):
        rendered("train", StagePlacement(accelerator="v5e-2x4"))


def test_kueue_is_named_only_if_the_spec_names_it() -> None:
    labels = rendered("train")[1]["metadata"]["labels"]
    assert not [key for key in labels if "kueue" in key]
    labels = rendered("train", queue="tpu")[1]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "tpu"
    assert "suspend" not in rendered("train", queue="tpu")[1]["spec"]
    own = StagePlacement(queue="tpu")
    for stage, queue in (("train", "tpu"), ("export", "cpu")):
        labels = rendered(stage, own if stage == "train" else None, queue="cpu")[1]["metadata"]
        assert labels["labels"]["kueue.x-k8s.io/queue-name"] == queue
    assert "kueue.x-k8s.io/queue-name" in rendered("train", own)[1]["metadata"]["labels"]


@pytest.mark.parametrize(
    "image", ["tuneloop", "tuneloop:latest", f"tuneloop@{DIGEST[:-1]}", f"@{DIGEST}", "a b@sha256:"]
)
def test_an_image_needs_a_digest(image: str) -> None:
    with pytest.raises(SpecError, match="a tag can point to another image"):
        image_identity(image)
    assert image_identity(IMAGE) == DIGEST


def test_a_tag_is_taken_if_asked_for_and_that_is_recorded() -> None:
    tagged = "registry.example:5000/team/tuneloop:v1"
    assert image_identity(tagged, allow_tag=True) == tagged
    assert image_identity(IMAGE, allow_tag=True) == DIGEST
    with pytest.raises(SpecError, match="a tag can point to another image"):
        image_identity("tuneloop@sha256:abc", allow_tag=True)
    _, job = renderer(ClusterSpec(namespace="n"), image=tagged).render(stage_specs()["export"])
    assert job["metadata"]["annotations"]["tuneloop.dev/allow-tag"] == "true"
    assert "tuneloop.dev/allow-tag" not in rendered("export")[1]["metadata"]["annotations"]


LONGEST = ACCELERATORS.shape(AcceleratorRequest(accelerator="v5p-16x16x24", slices=256))


@given(
    run_name=st.from_regex(r"\A[a-z]([-a-z0-9]{0,30}[a-z0-9])?\Z"),
    fingerprint=st.text(alphabet="0123456789abcdef", min_size=64, max_size=64),
    stage=st.sampled_from(sorted(TRAINING_STAGES)),
)
def test_names_fit_every_budget(run_name: str, fingerprint: str, stage: str) -> None:
    spec = stage_specs(run_name)[stage].model_copy(update={"fingerprint": fingerprint})
    name = object_name(run_name, spec)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) + len("-12345") <= 63  # name of a Job's pod
    assert len(name) + len("-999-12345") <= 63  # name of an Indexed Job's pod
    gang_name = object_name(run_name, spec, LONGEST)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", gang_name)
    assert len(f"{gang_name}-w-255-1535-12345") <= 63  # host name of a JobSet's pod
    assert len(spec.run_id) <= 63  # value of a label
    assert len(submitter_name(spec.run_id)) + len("-12345") <= 63


def test_names_that_are_cut_stay_apart() -> None:
    train = stage_specs()["train"]
    one, two = (object_name("a" * 31 + end, train, LONGEST) for end in "bc")
    assert one != two
