"""Run the workflows of this repository with act, on this machine and without containers.

External parts are replaced. ACTIONS replaces the actions of GitHub and Google by a few lines of
shell with the same results, pip calls are only logged, and gh.py replaces gh. All scripts of this
repository run unchanged, and the real act handles inputs, outputs, conditions and needs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.builders import REPOSITORY
from tests.ci.tools import ensure_tools

TUNELOOP = "OWNER/tuneloop"
TAG = "v0.1.0"
"""What docs/how-to/ci.md calls them."""

ACTIONS = {
    # Links the requested repository to `path`. Without `repository`, act has already copied the
    # files of the calling repository.
    "actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd": """
        if [ -n "${{ inputs.repository }}" ]; then
          [ "${{ inputs.repository }}@${{ inputs.ref }}" = "$EXPECTED_SOURCE" ]
          ln -sfn "$SOURCE" "${{ inputs.path }}"
        fi
    """,
    "actions/setup-python@a309ff8b426b58ec0e2a45f0f869d46889d02405": """
        echo "$STAND_INS" >> "$GITHUB_PATH"
    """,
    "google-github-actions/auth@7c6bc770dae815cd3e89ee6cdf493a5fab2cc093": """
        echo "login ${{ inputs.workload_identity_provider }} ${{ inputs.service_account }}" \
          >> "$LOG"
        echo "GOOGLE_APPLICATION_CREDENTIALS=$LOG.credentials" >> "$GITHUB_ENV"
    """,
    # Each login invalidates the previous one, so the tokens of earlier kubeconfigs expire.
    "google-github-actions/get-gke-credentials@3da1e46a907576cefaa90c484278bb5b259dd395": """
        [ -n "$GOOGLE_APPLICATION_CREDENTIALS" ]
        echo "kubeconfig ${{ inputs.cluster_name }} ${{ inputs.location }}" >> "$LOG"
        for old in "$LOG".kubeconfig.*; do
          [ ! -e "$old" ] || sed -i 's/"token": "[^"]*"/"token": "expired"/' "$old"
        done
        cp "$CLUSTER_KUBECONFIG" "$LOG.kubeconfig.$(wc -l < "$LOG")"
        echo "KUBECONFIG=$LOG.kubeconfig.$(wc -l < "$LOG")" >> "$GITHUB_ENV"
    """,
}

PYTHON = """#!/usr/bin/env bash
# `python -m venv DIR`: a DIR in which pip only says what it was asked.
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  cp "$STAND_INS/venv-python" "$3/bin/python"
  cp "$STAND_INS/venv-tuneloop" "$3/bin/tuneloop"
  exit 0
fi
exec {python} "$@"
"""
VENV_PYTHON = """#!/usr/bin/env bash
if [ "$1 $2" = "-m pip" ]; then
  echo "pip ${{@:3}}" >> "$LOG"
  exit 0
fi
exec {python} "$@"
"""
VENV_TUNELOOP = """#!/usr/bin/env bash
exec {python} -m tuneloop.cli "$@"
"""


@dataclass(frozen=True)
class Hub:
    """The parts of GitHub that a workflow uses: a repository, pull requests and comments."""

    folder: Path
    kubeconfig: Path

    @property
    def caller(self) -> Path:
        """The repository whose workflow runs."""
        return self.folder / "caller"

    @property
    def log(self) -> list[str]:
        """Return the calls of the replaced parts, in order."""
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def state(self) -> dict[str, Any]:
        """Return the calls of gh and the comments."""
        value: dict[str, Any] = json.loads((self.folder / "gh.json").read_text())
        return value

    def change(self, **state: Any) -> None:
        """Set the state of GitHub: `pulls` by commit, and `comments`."""
        (self.folder / "gh.json").write_text(json.dumps({**self.state, **state}))

    def act(self, event: str, payload: dict[str, Any], **options: str) -> Ended:
        """Run the caller's workflows for an event; `options` are repository variables."""
        path = self.folder / "event.json"
        path.write_text(json.dumps(payload))
        arguments = ["act", event, "--eventpath", str(path), "-P", "ubuntu-latest=-self-hosted"]
        arguments += ["--secret", "GITHUB_TOKEN=token-of-the-job", "--log-prefix-job-id"]
        for name, value in options.items():
            arguments += ["--var", f"{name}={value}"]
        for name in ACTIONS:
            arguments += ["--local-repository", f"{name}={self.folder / 'actions' / name}"]
        arguments += ["--local-repository", f"{TUNELOOP}@{TAG}={REPOSITORY}"]
        tools, stand_ins = ensure_tools(), self.folder / "stand-ins"
        env = {
            **os.environ,
            "PATH": f"{stand_ins}:{tools}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": str(REPOSITORY / "lib"),
            "STAND_INS": str(stand_ins),
            "SOURCE": str(REPOSITORY),
            "EXPECTED_SOURCE": f"{TUNELOOP}@{TAG}",
            "LOG": str(self.folder / "log"),
            "GH_STATE": str(self.folder / "gh.json"),
            "CLUSTER_KUBECONFIG": str(self.kubeconfig),
        }
        for name in ("PYTHONPATH", "STAND_INS", "SOURCE", "EXPECTED_SOURCE", "LOG", "GH_STATE"):
            arguments += ["--env", f"{name}={env[name]}"]
        arguments += ["--env", f"CLUSTER_KUBECONFIG={env['CLUSTER_KUBECONFIG']}"]
        arguments += ["--env", "TERM=dumb"]  # act gives steps a terminal, but GitHub does not
        done = subprocess.run(
            arguments, cwd=self.caller, env=env, capture_output=True, text=True, timeout=300
        )
        return Ended(done.returncode, done.stdout + done.stderr)


@dataclass(frozen=True)
class Ended:
    """The result of a workflow run."""

    code: int
    output: str

    def job(self, name: str) -> str:
        """Return the output of one job."""
        lines = self.output.splitlines()
        return "\n".join(
            line for line in lines if line.startswith("[") and name in line.split("]")[0]
        )


def open_hub(folder: Path, kubeconfig: Path, workflow: str, **files: str) -> Hub:
    """Create a repository with one workflow and some files, and replace the external parts."""
    hub = Hub(folder, kubeconfig)
    (hub.caller / ".github/workflows").mkdir(parents=True)
    (hub.caller / ".github/workflows/train.yml").write_text(workflow)
    for name, text in files.items():
        path = hub.caller / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    _git(hub.caller, "init", "--quiet", "--initial-branch=main")
    _git(hub.caller, "add", "--all")
    _git(hub.caller, "-c", "user.name=n", "-c", "user.email=n@x.example", "commit", "-qm", "one")
    for name, script in ACTIONS.items():
        path = folder / "actions" / name / "action.yml"
        path.parent.mkdir(parents=True)
        inputs = {found: {"description": found} for found in re.findall(r"inputs\.(\w+)", script)}
        steps = [{"shell": "bash", "run": script}]
        action = {"name": name, "description": "stands in", "inputs": inputs}
        action["runs"] = {"using": "composite", "steps": steps}
        path.write_text(yaml.safe_dump(action))
    stand_ins = folder / "stand-ins"
    stand_ins.mkdir()
    (folder / "home").mkdir()
    scripts = {
        "python": PYTHON,
        "venv-python": VENV_PYTHON,
        "venv-tuneloop": VENV_TUNELOOP,
        "gh": f'#!/usr/bin/env bash\nexec {{python}} {Path(__file__).with_name("gh.py")} "$@"\n',
    }
    for name, text in scripts.items():
        path = stand_ins / name
        path.write_text(
            text.replace("{python}", sys.executable).replace("{{", "{").replace("}}", "}")
        )
        path.chmod(0o755)
    (folder / "gh.json").write_text(json.dumps({"calls": [], "comments": [], "pulls": {}}))
    return hub


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
