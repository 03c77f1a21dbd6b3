"""Run the scripts of the GitLab example with bash, as a runner does, against a real API server.

GitLab's linter is only available as a service. The tests therefore parse the file, resolve
`extends`, and pass dotenv reports from one job to the next.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import REPOSITORY, TinyRun
from tests.ci.tools import ensure_shellcheck
from tests.cluster import controlplane

EXAMPLE = REPOSITORY / "examples/gitlab/.gitlab-ci.yml"
IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61
SMALL = {"cpu": "1", "memory": "1Gi", "ephemeral_storage": "1Gi"}
SHARED = ".tuneloop"


def jobs() -> dict[str, dict[str, Any]]:
    """Return the jobs by name, in the order of their stages, with `extends` resolved."""
    value = yaml.safe_load(EXAMPLE.read_text())
    found = {name: job for name, job in value.items() if name not in ("stages", SHARED)}
    assert [job["stage"] for job in found.values()] == value["stages"]
    assert {job["extends"] for job in found.values()} == {SHARED}
    return {name: {**value[SHARED], **job} for name, job in found.items()}


def script_of(job: dict[str, Any]) -> str:
    """Join script lines as a runner does: the first failing line ends the job."""
    return "\n".join(["set -eo pipefail", *job["before_script"], *job["script"]])


def test_shellcheck_finds_nothing() -> None:
    ensure_shellcheck()
    for name, job in jobs().items():
        assert all(isinstance(line, str) for line in job["before_script"] + job["script"])
        done = subprocess.run(
            ["shellcheck", "--shell=bash", "--exclude=SC2154", "-"],
            input=script_of(job),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (0, ""), name


@pytest.fixture
def notes() -> Iterator[tuple[str, list[tuple[str, str, dict[str, Any]]]]]:
    """Serve GitLab's API for notes; yield its URL and (path, token, body) of posted notes."""
    posted: list[tuple[str, str, dict[str, Any]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, self.headers["PRIVATE-TOKEN"], json.loads(body)))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api/v4", posted
        server.shutdown()


@pytest.mark.usefixtures("node")
def test_its_jobs_submit_wait_and_report(
    cluster: controlplane.Cluster,
    namespace: str,
    tiny_run: TinyRun,
    store: str,
    tmp_path: Path,
    notes: tuple[str, list[tuple[str, str, dict[str, Any]]]],
) -> None:
    cluster.kubectl("create", "serviceaccount", "tuneloop-stage", "-n", namespace, check=True)
    stages = dict.fromkeys(("export", "train", "eval", "import"), SMALL)
    place = {"namespace": namespace, "shared_artifacts": True, **stages}
    tiny_run.change(execution__cluster=place, execution__store_url=store, train__steps=1)
    url, posted = notes
    project, programs = tmp_path / "project", tmp_path / "programs"
    (project / "runs").mkdir(parents=True)
    programs.mkdir()
    for name, arguments in (("python", ""), ("tuneloop", "-m tuneloop.cli ")):
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments}"$@"\n')
        path.chmod(0o755)
    (project / "runs/sft.yaml").write_text(tiny_run.spec_path.read_text())
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "lib"),
        "TUNELOOP_HOME": str(REPOSITORY),
        "KUBECONFIG": str(cluster.kubeconfig),
        "KUBE_CONTEXT": "test",
        "CI_PROJECT_DIR": str(project),
        "RUN_SPEC": "runs/sft.yaml",
        "TUNELOOP_IMAGE": IMAGE,
        "ARTIFACTS": tiny_run.artifacts,
        "WORKLOAD_IDENTITY_PROVIDER": "projects/1/locations/global/x",
        "SERVICE_ACCOUNT": "ci@project.example",
        "GITLAB_OIDC_TOKEN": "a.b.c",
        "CI_API_V4_URL": url,
        "CI_PROJECT_ID": "12",
        "CI_MERGE_REQUEST_IID": "5",
        "TUNELOOP_COMMENT_TOKEN": "secret-of-the-project",
        "MIN_GAIN": "-1",
    }

    def run(name: str, **more: str) -> subprocess.CompletedProcess[str]:
        handed = (project / "run.env").read_text() if name != "submit" else ""
        variables = dict(line.split("=", 1) for line in handed.splitlines())
        return subprocess.run(
            ["bash", "-c", script_of(jobs()[name])],
            cwd=project,
            env={**env, **variables, **more},
            capture_output=True,
            text=True,
            timeout=200,
        )

    done = run("submit")
    assert done.returncode == 0, done.stderr
    (folder,) = (Path(tiny_run.artifacts) / "training_runs").iterdir()
    assert (project / "run.env").read_text() == f"RUN_ID={folder.name}\n"
    google = json.loads((tmp_path / "project.tmp/google.json").read_text())
    assert google["audience"] == "//iam.googleapis.com/projects/1/locations/global/x"
    assert Path(google["credential_source"]["file"]).read_text() == "a.b.c"
    early = run("wait", WAIT_SECONDS="0")
    assert early.returncode in jobs()["wait"]["retry"]["exit_codes"] == [32], early.stderr
    done = run("wait")
    assert done.returncode == 0, done.stderr
    done = run("report")
    assert done.returncode == 0, done.stderr
    ((posted_to, token, body),) = posted
    assert posted_to == "/api/v4/projects/12/merge_requests/5/notes"
    assert token == "secret-of-the-project"
    assert body["body"] == (project / "report.md").read_text()
    assert f"### tuneloop: `{folder.name}`: " in body["body"]
    shut = run("report", MIN_GAIN="1")
    assert (shut.returncode, "expected at least +100.0" in shut.stderr) == (13, True)
    again = run("submit")  # the existing run of the same commit is found
    assert again.returncode == 0, again.stderr
    assert (project / "run.env").read_text() == f"RUN_ID={folder.name}\n"
