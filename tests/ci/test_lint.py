"""Check workflows and actions with actionlint, and with rules that actionlint does not have."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import REPOSITORY
from tests.ci.actions import ACTIONS
from tests.ci.tools import ensure_shellcheck, ensure_tools

WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
COMPOSITES = sorted((REPOSITORY / ".github/actions").glob("*/action.yml"))
FILES = WORKFLOWS + COMPOSITES
OURS = re.compile(r"\./(\.tuneloop-source/)?\.github/actions/[a-z]+")
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
BY_COMMIT = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
RELEASE = REPOSITORY / ".github/workflows/release.yml"
MAY_WRITE = {"id-token", "pull-requests"}
RENEW = REPOSITORY / ".github/workflows/renew.yml"
WRITES = {
    RELEASE: {"attestations", "contents", "id-token", "packages"},
    RENEW: {"contents", "pull-requests"},
}


def load(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = yaml.load(
        path.read_text(), yaml.BaseLoader
    )  # BaseLoader does not read `on` as a boolean
    return value


def steps_of(path: Path) -> Iterator[dict[str, Any]]:
    value = load(path)
    for job in value.get("jobs", {"": value.get("runs", {})}).values():
        yield from job.get("steps", [])


def test_actionlint_finds_nothing_in_workflows() -> None:
    ensure_shellcheck()
    lint = ensure_tools() / "actionlint"
    example = re.findall(
        r"```yaml\n(name: .*?)```", (REPOSITORY / "docs/how-to/ci.md").read_text(), re.S
    )
    assert example
    done = subprocess.run([lint, "-no-color", *WORKFLOWS], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    for text in example:
        done = subprocess.run([lint, "-no-color", "-"], input=text, capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_actionlint_and_shellcheck_find_what_is_wrong(tmp_path: Path) -> None:
    ensure_shellcheck()
    bad = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n"
    bad += "      - run: echo $UNQUOTED\n"
    bad += "      - run: echo ${{ github.event.pull_request.title }}\n"
    (tmp_path / "bad.yml").write_text(bad)
    lint = ensure_tools() / "actionlint"
    done = subprocess.run([lint, tmp_path / "bad.yml"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "SC2086" in done.stdout
    assert "potentially untrusted" in done.stdout


@pytest.mark.parametrize("path", COMPOSITES, ids=lambda path: path.parent.name)
def test_shellcheck_finds_nothing_in_actions(path: Path) -> None:
    """Actionlint checks only workflows, so actions are checked here."""
    ensure_shellcheck()
    scripts = [step for step in steps_of(path) if "run" in step]
    assert scripts
    for step in scripts:
        assert step["shell"] == "bash"
        done = subprocess.run(
            # SC2016: $ENV in single quotes is jq's; SC2154: assigned by `env`.
            ["shellcheck", "--shell=bash", "--exclude=SC2016,SC2154", "-"],
            input=f"set -eo pipefail\n{step['run']}",  # the options of GitHub's `shell: bash`
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (0, ""), step["name"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_can_be_injected_and_everything_is_pinned(path: Path) -> None:
    for step in steps_of(path):
        # An expression becomes part of the script before a shell quotes anything: only by env.
        assert "${{" not in step.get("run", "")
        if uses := step.get("uses"):
            assert OURS.fullmatch(uses) or PINNED.fullmatch(uses), uses
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize("path", [*WORKFLOWS, *COMPOSITES], ids=lambda path: path.parent.name)
def test_every_action_is_pinned_by_commit_with_its_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    assert all(BY_COMMIT.fullmatch(each) or OURS.fullmatch(each) for each in used), used


def test_pins_are_renewed_every_week() -> None:
    updates = load(REPOSITORY / ".github/dependabot.yml")["updates"]
    (actions,) = updates
    assert actions["package-ecosystem"] == "github-actions"
    assert actions["schedule"]["interval"] == "weekly"
    folders = {"/"} | {f"/.github/actions/{path.parent.name}" for path in COMPOSITES}
    assert set(actions["directories"]) == folders
    *_, weekday = load(RENEW)["on"]["schedule"][0]["cron"].split()
    assert weekday != "*"


def test_the_release_attests_what_it_publishes() -> None:
    for name in ("images", "wheel"):
        job = load(RELEASE)["jobs"][name]
        actions = [step.get("uses", "").partition("@")[0] for step in job["steps"]]
        assert "actions/attest-build-provenance" in actions
    # An attestation of a fork's or a branch's code would say that the project published it.
    assert list(load(RELEASE)["on"]) == ["push"] and list(load(RELEASE)["on"]["push"]) == ["tags"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_ask_for_few_rights(path: Path) -> None:
    value = load(path)
    events = value["on"] if isinstance(value["on"], dict) else {value["on"]: None}
    # It would run a fork's code with this repository's rights.
    assert not {"pull_request_target", "workflow_run"} & set(events)
    assert value["permissions"] in ({}, {"contents": "read"})
    for job in value["jobs"].values():
        assert int(job["timeout-minutes"]) <= 360
        for right, level in job.get("permissions", {}).items():
            assert level == "read" or right in WRITES.get(path, MAY_WRITE)


def test_every_foreign_action_of_the_submitter_has_a_stand_in() -> None:
    files = [*COMPOSITES, REPOSITORY / ".github/workflows/submit.yml"]
    foreign = {s["uses"] for path in files for s in steps_of(path) if "uses" in s}
    assert {uses for uses in foreign if not OURS.fullmatch(uses)} == set(ACTIONS)


def test_actions_say_what_they_take() -> None:
    for path in COMPOSITES:
        action = load(path)
        text = path.read_text()
        declared = set(action["inputs"])
        assert declared == set(re.findall(r"inputs\.([a-z-]+)", text)), path
        for name, value in action["inputs"].items():
            assert value["description"], name
            assert ("default" in value) != (value.get("required") == "true"), name
        for step in steps_of(REPOSITORY / ".github/workflows/submit.yml"):
            if step.get("uses", "").endswith(f"/{path.parent.name}"):
                assert set(step["with"]) <= declared
                needed = {n for n, v in action["inputs"].items() if v.get("required") == "true"}
                assert needed <= set(step["with"])
