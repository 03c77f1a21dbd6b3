"""Annotations, step summary and outputs for GitHub Actions.

Format: GitHub's "Workflow commands for GitHub Actions". Elsewhere these functions do nothing.
"""

from __future__ import annotations

import os
import sys
from typing import Literal

import typer

SUMMARY_BYTES = 1_000_000
"""Maximum size of a summary; GitHub discards a whole summary above 1 MiB."""


def is_running() -> bool:
    """Whether this process is a step of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotate(level: Literal["notice", "warning", "error"], title: str, message: str) -> None:
    """Show a message on the page of the workflow run."""
    if is_running():
        sys.stdout.write(f"::{level} title={_property(title)}::{_data(message)}\n")
        sys.stdout.flush()


def append_summary(markdown: str) -> None:
    """Append Markdown to the summary on the page of the workflow run."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if is_running() and path:
        text = markdown.encode("utf-8", "replace")[:SUMMARY_BYTES].decode("utf-8", "ignore")
        _append(path, f"{text}\n", "GITHUB_STEP_SUMMARY")


def set_output(**values: str) -> None:
    """Set outputs of the step, such as `run_id`, for later steps and jobs."""
    path = os.environ.get("GITHUB_OUTPUT")
    if not (is_running() and path):
        return
    for name, value in values.items():
        if len(value.splitlines()) > 1:  # more lines would set other outputs
            raise ValueError(f"output {name} has several lines")
    _append(path, "".join(f"{name}={value}\n" for name, value in values.items()), "GITHUB_OUTPUT")


def _append(path: str, text: str, variable: str) -> None:
    """Append text to a file of the step; a run must not fail because that is not possible."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as e:
        typer.echo(f"warning: {variable}: {path} cannot be written ({e.strerror})", err=True)


def run_url() -> str | None:
    """Return the URL of the workflow run of this step; None outside GitHub Actions."""
    parts = [os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    if not is_running() or None in parts:
        return None
    server, repository, run = parts
    return f"{server}/{repository}/actions/runs/{run}"


def actor() -> str | None:
    """Return the name of the account that started the workflow; None outside GitHub Actions."""
    return (os.environ.get("GITHUB_ACTOR") or None) if is_running() else None


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
