"""Test the built images: their sizes, their contents, and tuneloop in containers of them."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bench.smoke import run_smoke
from tests.builders import steps_done
from tests.images.conftest import TAG, Built
from tests.images.container import Container, command, container
from tests.objectstore import STORES
from tuneloop.k8s.rendering.pod import CACHE, USER
from tuneloop.stages.lifecycle.command import stage_env

pytestmark = pytest.mark.images

BASE_BYTES, TRAIN_BYTES = 450e6, 1.3e9
HELP_SECONDS = 0.4
WORK = "/runs"
STAGES = ("export", "train", "eval", "import")

# Prints the modules of the library and the jobs that cannot be imported, and what each is missing.
IMPORT_ALL = """
import importlib, json, pkgutil, jobs, tuneloop
lacking = {}
for package in (jobs, tuneloop):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if found.name.endswith(("__main__", "migrations.env")):
            continue
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as e:
            lacking[found.name] = e.name
print(json.dumps(lacking))
"""

# Prints the extras and protocols whose packages can be imported, and the variant of JAX.
INSTALLED = """
import importlib.metadata, importlib.util, json, re
names = {each.name for each in importlib.metadata.distributions()}
marks = {"data": "duckdb", "gcs": "gcsfs", "k8s": "kubernetes", "s3": "s3fs", "store": "fastapi"}
marks |= {"eval": "math-verify", "train": "google-tunix"}
protocols = {"file": "fsspec", "gs": "gcsfs", "s3": "s3fs"}
variants = {"cuda": "jax-cuda12-plugin", "tpu": "libtpu", "cpu": "jax"}
print(json.dumps({
    "extras": [extra for extra in sorted(marks) if marks[extra] in names],
    "protocols": [each for each in protocols if importlib.util.find_spec(protocols[each])],
    "jax": next((each for each in variants if variants[each] in names), None),
}))
"""

# Uses the object store at a URL: small and large objects, and what `check --server` tries.
USE_STORE = """
import sys
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.crypt import RSASigner
from tuneloop.storage import files, objects, paths, probe
prefix = sys.argv[1]
assert probe.try_create_only(prefix) is None
small, large = (paths.join(prefix, name) for name in ("small", "large"))
files.write(small, "Übung 🧪".encode())
assert objects.read_small(small).decode() == "Übung 🧪"
data = bytes(range(256)) * 80_000  # more than one part
files.write(large, data)
assert files.read(large) == data
assert [each.size_bytes for each in objects.list_objects(prefix)] == [len(data), 11]
# How a key file of Google's signs its requests for a token.
key = rsa.generate_private_key(65537, 2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
assert len(RSASigner.from_string(key).sign(b"x")) == 256
print("ok")
"""

COMPILED = stage_env(CACHE, "/dev/termination-log")
"""Environment of a stage's pod, so that a container finds what an earlier one has compiled."""


@pytest.fixture
def new(built: Built, tmp_path: Path) -> Callable[..., Container]:
    """Return a function that makes containers from target, argv and options of `container`."""

    def make(target: str, *argv: str, **options: Any) -> Container:
        folder = tmp_path / f"container-{len(list(tmp_path.glob('container-*')))}"
        return container(built.images[target], folder, argv, **options)

    return make


@pytest.fixture(scope="module")
def demo(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run the whole demo in a container of `train` without network; return folder and summary."""
    folder = tmp_path_factory.mktemp("demo")
    work = folder / "work"
    work.mkdir()
    (folder / "cache").mkdir()
    argv = ["tuneloop", "demo", "--workdir", WORK, "--json"]
    places = {work: WORK, folder / "cache": CACHE}
    image = built.images["train"]
    made = container(image, folder / "container", argv, env=COMPILED, volumes=places)
    done = made.run(timeout=400)
    assert done.returncode == 0, done.stderr
    return work, json.loads(done.stdout)


def sh(made: Container) -> str:
    done = made.run()
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_folder(work: Path) -> Path:
    (found,) = (work / "artifacts" / "training_runs").iterdir()
    return found


def record(run: Path, stage: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / stage / "record.json").read_bytes())
    return value


def digests(value: dict[str, Any]) -> dict[str, str]:
    return {f["name"]: f["sha256"] for f in value["outputs"] if not f["has_timings"]}


def rewind(work: Path, folder: Path, stage: str) -> Path:
    """Copy the demo's folder in the state before a stage, but with the stage's spec."""
    copied = folder / "rewound"
    shutil.copytree(work, copied)
    run = run_folder(copied)
    spec = (run / stage / "spec.json").read_bytes()
    for later in STAGES[STAGES.index(stage) :]:
        fingerprint = record(run, later)["fingerprint"]
        (copied / "artifacts" / "stages" / f"{fingerprint}.json").unlink()
        shutil.rmtree(run / later)
    (run / stage).mkdir()
    (run / stage / "spec.json").write_bytes(spec)
    command("chown", "-R", "10001:10001", str(copied))
    return copied


def stage_argv(work: Path, stage: str) -> list[str]:
    """Return the command that the renderer fills into manifests/k8s/pod.yaml."""
    spec = f"{WORK}/artifacts/training_runs/{run_folder(work).name}/{stage}/spec.json"
    return ["python", "-m", "jobs", stage, "--spec", spec]


def test_sizes(built: Built) -> None:
    sizes = {name: image.size_bytes for name, image in built.images.items()}
    assert sizes["base"] <= BASE_BYTES
    assert sizes.get("train", 0) <= TRAIN_BYTES
    assert sizes["serve"] == sizes["base"]


def test_the_benchmark_of_the_images_runs(built: Built) -> None:
    measured = [target for target in built.images if target in ("base", "train")]
    figures = run_smoke("image", "--tag", TAG, *measured)
    assert len(figures) == 2 * len(measured)


@pytest.mark.parametrize("target", ["base", "serve", "train"])
def test_the_user_is_the_one_of_pods(target: str, built: Built) -> None:
    config = built.images[target].config
    assert config["User"] == f"{USER}:{USER}"
    assert config["WorkingDir"] == "/app"


@pytest.mark.parametrize("target", ["base", "train"])
def test_labels_list_what_is_installed(
    target: str, built: Built, new: Callable[..., Container]
) -> None:
    labels = built.images[target].config["Labels"]
    found = json.loads(sh(new(target, "python", "-c", INSTALLED)))
    assert labels["dev.tuneloop.extras"].split(",") == found["extras"]
    assert labels["dev.tuneloop.protocols"].split(",") == found["protocols"]
    assert labels.get("dev.tuneloop.jax") == found["jax"]


@pytest.mark.parametrize("protocol", sorted(STORES))
@pytest.mark.parametrize("target", ["base", "train"])
def test_object_stores_work(
    target: str, protocol: str, new: Callable[..., Container], tmp_path: Path
) -> None:
    """On S3 with the temporary credentials of a role, as pods on EKS get them."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "token").write_text("token of a ServiceAccount")
    with STORES[protocol]() as store:
        env = {**store.environment, "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/tuneloop"}
        env |= {"AWS_ROLE_SESSION_NAME": "pod", "AWS_WEB_IDENTITY_TOKEN_FILE": "/secret/token"}
        env = {name: env[name] for name in env if not name.endswith(("KEY_ID", "ACCESS_KEY"))}
        argv = ("python", "-c", USE_STORE, store.url("läufe 🧪"))
        places = {secret: "/secret"}
        done = new(target, *argv, env=env, volumes=places, on_host_network=True).run()
        assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
        assert store.bucket.names() == ["läufe 🧪/large", "läufe 🧪/small"]


@pytest.mark.parametrize("target", ["base", "train"])
def test_a_protocol_without_its_package_is_one_sentence(
    target: str, new: Callable[..., Container]
) -> None:
    spec = "abfs://bucket/run/export/spec.json"
    done = new(target, "python", "-m", "jobs", "export", "--spec", spec).run()
    assert done.returncode == 2
    assert "Python package adlfs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("target", ["base", "serve", "train"])
def test_labels_name_version_revision_and_base(target: str, built: Built, repository: Path) -> None:
    labels = built.images[target].config["Labels"]
    prefix = "org.opencontainers.image"
    head = command("git", "-C", str(repository), "rev-parse", "HEAD").strip()
    assert labels[f"{prefix}.revision"].removesuffix("-dirty") == head
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels[f"{prefix}.version"])
    assert labels[f"{prefix}.base.name"] == "localhost/debian-python-base:test"
    assert f"{prefix}.source" in labels


def test_signals_reach_python_and_argv_is_that_of_a_laptop(built: Built) -> None:
    for image in built.images.values():
        assert not image.config.get("Entrypoint")
        assert (
            image.config["Cmd"][0] == "tuneloop"
        )  # exec form; with the shell form, this would be a shell


def test_nothing_of_the_builders_pip_configuration_is_in_a_layer(built: Built) -> None:
    """Search all layers of all stages, including the builder's, and every configuration."""

    def files_with(text: str) -> list[str]:
        argv = ["grep", "-rlaF", "--exclude-dir=merged", text, str(built.storage)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.splitlines()

    assert files_with("tuneloop needs Python") == []  # a text of the Makefile, which is in no image
    assert files_with(
        "argv of every stage, on a laptop"
    )  # a text of jobs/__main__.py, which is in the images
    assert files_with(built.planted) == []


@pytest.mark.parametrize("target", ["base", "train"])
def test_the_final_layers_have_no_tool_to_build_or_install_with(
    target: str, new: Callable[..., Container]
) -> None:
    tools = "gcc cc g++ ld as strip make pip pip3 apt-get git perl"
    assert sh(new(target, "sh", "-c", f"command -v {tools} || true")) == ""
    assert sh(new(target, "sh", "-c", "ls -d /opt/* /images /run/secrets 2>/dev/null || true")) == (
        "/opt/tuneloop\n"
    )


@pytest.mark.parametrize("target", ["base", "train"])
def test_nothing_can_be_written_but_the_volumes(target: str, new: Callable[..., Container]) -> None:
    script = "id -u; for f in /x /app/x /opt/tuneloop/x /home/tuneloop/x; do touch $f; done"
    done = new(target, "sh", "-c", f"{script}; touch /tmp/x /home/tuneloop/.cache/x").run()
    assert done.stdout == "10001\n"
    assert done.stderr.count("Read-only file system") == 4
    assert done.returncode == 0


def test_everything_but_training_can_be_imported_in_base(
    new: Callable[..., Container],
) -> None:
    lacking = json.loads(sh(new("base", "python", "-W", "error::ImportWarning", "-c", IMPORT_ALL)))
    of_training = {"jax", "flax", "gguf", "ml_dtypes", "optax", "safetensors", "scipy"}
    of_training |= {"sentencepiece", "statsmodels", "tensorboardX", "tokenizers"}
    assert set(lacking.values()) <= of_training
    parts = ["training", "evaluation", "stages", "runs.reports"]
    # The report of rounds, which a supervisor can leave to others.
    parts += ["runs.rounds.comparisons", "runs.rounds.report"]
    prefixes = tuple(f"tuneloop.{part}." for part in parts)
    assert all(f"{name}.".startswith(prefixes) for name in lacking)
    works = {"tuneloop.stages.export", "tuneloop.stages.import_traces", "jobs.submit"}
    assert not works & set(lacking)


@pytest.mark.train
def test_everything_but_the_cluster_client_can_be_imported_in_train(
    new: Callable[..., Container],
) -> None:
    lacking = json.loads(sh(new("train", "python", "-c", IMPORT_ALL)))
    assert set(lacking.values()) <= {"kubernetes", "urllib3"}
    assert all(name.startswith(("tuneloop.k8s.", "jobs.submit")) for name in lacking)


@pytest.mark.parametrize("target", ["base", "train"])
def test_bytecode_is_there_for_every_module(target: str, new: Callable[..., Container]) -> None:
    script = "find /app /opt/tuneloop/lib -name '*.{}' | wc -l"
    counts = [int(sh(new(target, "sh", "-c", script.format(kind)))) for kind in ("py", "pyc")]
    assert counts[0] == counts[1] > 1000


@pytest.mark.parametrize("target", ["base", "train"])
def test_help_of_a_stage_comes_at_once(target: str, new: Callable[..., Container]) -> None:
    """Take the best of five tries, because other work on this machine must not count."""
    loop = "for i in 1 2 3 4 5; do date +%s%N; python -m jobs export --help >/dev/null; done"
    script = f"python -m jobs export --help | head -1; {loop}; date +%s%N"
    usage, *stamps = sh(new(target, "sh", "-c", script)).splitlines()
    assert usage.startswith("usage: python -m jobs")
    times = [(int(b) - int(a)) / 1e9 for a, b in itertools.pairwise(stamps)]
    assert min(times) <= HELP_SECONDS


def test_check_of_a_run_works_in_base(new: Callable[..., Container], tmp_path: Path) -> None:
    """`check` needs templates, table, schemas and client models, whose packages were pruned."""
    work = tmp_path / "work"
    work.mkdir()
    spec = yaml.safe_load((Path(__file__).parents[2] / "jobs/configs/demo.yaml").read_text())
    spec["execution"] = {
        "artifacts": "memory://bucket/tuneloop",
        "store_url": "http://store:8000",
        "cluster": {
            "namespace": "training",
            "image": f"registry.example/tuneloop@sha256:{'0' * 64}",
            "train": {"accelerator": "v6e-4x4", "cpu": "24", "memory": "48Gi"},
        },
    }
    (work / "run.yaml").write_text(yaml.safe_dump(spec))
    done = new("base", "tuneloop", "check", f"{WORK}/run.yaml", volumes={work: WORK}).run()
    # The dataset does not exist. All files that are read before it are valid.
    assert "dataset" in done.stderr, done.stdout + done.stderr


def test_the_demo_runs_whole_in_train(demo: tuple[Path, dict[str, Any]], built: Built) -> None:
    work, summary = demo
    assert [(s["name"], s["state"]) for s in summary["stages"]] == [(s, "done") for s in STAGES]
    assert summary["accuracy"]["tuned"] >= 0.60
    revision = built.images["train"].config["Labels"]["org.opencontainers.image.revision"]
    for stage in STAGES:
        provenance = record(run_folder(work), stage)["provenance"]
        assert provenance["git_commit"] == revision.removesuffix("-dirty")
        assert provenance["git_dirty"] is revision.endswith("-dirty")
    assert (run_folder(work) / "train" / "record.json").stat().st_uid == 10001


def test_the_train_stage_is_stopped_and_goes_on(
    demo: tuple[Path, dict[str, Any]], new: Callable[..., Container], tmp_path: Path
) -> None:
    work = rewind(demo[0], tmp_path, "train")
    argv = stage_argv(work, "train")
    options = {"env": COMPILED, "volumes": {work: WORK, demo[0].parent / "cache": CACHE}}
    first = new("train", *argv, **options)
    with first.start() as process:
        wait_for(lambda: steps_done(run_folder(work) / "train") > 0, process)
        first.kill("TERM")
        said, _ = process.communicate(timeout=100)
    assert process.returncode == 75, said
    assert not (run_folder(work) / "train" / "record.json").exists()
    assert 0 < steps_done(run_folder(work) / "train") < 50
    again = new("train", *argv, **options).run(timeout=300)
    assert again.returncode == 0, again.stderr
    expected, found = (record(run_folder(w), "train") for w in (demo[0], work))
    assert digests(found) == digests(expected)


def test_the_export_stage_of_base_writes_the_same_bytes(
    demo: tuple[Path, dict[str, Any]], new: Callable[..., Container], tmp_path: Path
) -> None:
    work = rewind(demo[0], tmp_path, "export")
    done = new("base", *stage_argv(work, "export"), volumes={work: WORK}).run(timeout=200)
    assert done.returncode == 0, done.stderr
    expected, found = (record(run_folder(w), "export") for w in (demo[0], work))
    assert digests(found) == digests(expected)


def test_a_stage_without_its_package_says_what_is_missing(
    demo: tuple[Path, dict[str, Any]], new: Callable[..., Container], tmp_path: Path
) -> None:
    work = rewind(demo[0], tmp_path, "train")
    done = new("base", *stage_argv(work, "train"), volumes={work: WORK}).run()
    assert done.returncode == 2
    assert "install the train extra" in done.stderr


def test_serve_is_healthy_and_stops(
    built: Built, new: Callable[..., Container], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    line = sh_stderr(new("serve", "tuneloop", "tokens", "new", "ci", "--role", "read"))
    env = {"TUNELOOP_DATABASE": "sqlite:////data/store.db", "TUNELOOP_TOKENS": line}
    store = new("serve", env=env, volumes={data: "/data"})
    check = built.images["serve"].config["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    with store.start() as process:
        wait_for(lambda: store.execute(*check[1:]).returncode == 0, process)
        since = time.monotonic()
        store.kill("TERM")
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert time.monotonic() - since < 10


def sh_stderr(made: Container) -> str:
    """Return the line for the token file, which `tokens new` prints."""
    done = made.run()
    return done.stderr.rsplit("add to the token file: ", 1)[1].strip()


def wait_for(check: Callable[[], bool], process: subprocess.Popen[str], seconds: int = 100) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.2)


@pytest.mark.parametrize("target", ["base", "train"])
def test_the_bill_of_materials_is_valid_and_says_what_is_there(
    target: str, built: Built, repository: Path, tmp_path: Path
) -> None:
    """Run `make sbom`, which validates its output."""
    python = tmp_path / "audit" / "bin" / "python"
    command(sys.executable, "-m", "venv", str(tmp_path / "audit"))
    lock = str(repository / "requirements" / "audit.txt")
    command(
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-compile",
        "--require-hashes",
        "-r",
        lock,
    )
    output = tmp_path / f"{target}.cdx.json"
    script = repository / "images" / "sbom.py"
    locked = f"{repository}/requirements/{target}.txt"
    image = built.images[target]
    command(str(python), str(script), image.name, locked, str(output))
    bill = json.loads(output.read_bytes())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {each["purl"].split("@")[0] for each in bill["components"]}
    sites = image.root.glob("opt/tuneloop/lib/python3*/site-packages/*.dist-info")
    assert sum(name.startswith("pkg:pypi/") for name in found) == len(list(sites))
    own = {"base": "pkg:pypi/kubernetes", "train": "pkg:pypi/jax"}[target]
    assert {own, "pkg:deb/debian/libc6"} <= found
    assert not {"pkg:pypi/setuptools", "pkg:pypi/pip", "pkg:pypi/pycparser"} & found
