"""Every variable of tuneloop is declared, read in one place, and refused by its name."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from tests.builders import REPOSITORY, Invoke, TinyRun
from tuneloop.cli import app
from tuneloop.cli.shared.option_groups import RunOptions
from tuneloop.cli.shared.options import environment_value
from tuneloop.errors import UsageError
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.settings.environment import (
    Settings,
    check_environment,
    known_variables,
    read_settings,
)
from tuneloop.stages.lifecycle.contract import run_stage

NAME = re.compile(r"(?<![\w<])TUNELOOP_[A-Z0-9_]*[A-Z0-9](?![*\w])")


def test_every_variable_that_the_project_names_is_known() -> None:
    places = ("lib", "jobs", "images", "manifests", "docs", "bench", ".github", "examples")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *places, "Makefile", "Dockerfile", "README.md"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    found: dict[str, str] = {}
    for name in filter(None, listed.stdout.decode().split("\0")):
        text = (REPOSITORY / name).read_bytes().decode("utf-8", "replace")
        found |= dict.fromkeys(NAME.findall(text), name)
    assert {name: place for name, place in found.items() if name not in known_variables()} == {}


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"TUNELOOP_STORE": " \n", "TUNELOOP_STORE_TOKEN": "\n"}) == Settings()
    assert list(check_environment({"PATH": "/bin"})) == []


def test_values_lose_their_line_ends_and_secrets_are_not_shown() -> None:
    found = read_settings(
        {
            "TUNELOOP_ARTIFACTS": "gs://bucket/größe 🚀\r\n",
            "TUNELOOP_STORE_TOKEN": "tl_secret\n",
            "TUNELOOP_TOKENS": "me read secret",
            "TUNELOOP_WEBHOOK_URL": "https://hooks.example/secret",
        }
    )
    assert found.artifacts == "gs://bucket/größe 🚀"
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TUNELOOP_STORE", "ftp://me:secret@host"),
        ("TUNELOOP_STORE", "secret.example:8000"),
        ("TUNELOOP_STORE", "http://[::secret"),
        ("TUNELOOP_STORE_TOKEN", "sec ret"),
        ("TUNELOOP_WEBHOOK_URL", "https://hooks.example/ü-secret"),
        ("TUNELOOP_VERIFY_BELOW", "64 MiB"),
        ("TUNELOOP_VERIFY_BELOW", "-1"),
        ("TUNELOOP_PROCESSES", "0"),
        ("TUNELOOP_PROCESS_ID", "9" * 5000),
        ("TUNELOOP_DEVICE_PEAK_TFLOPS", "inf"),
        ("TUNELOOP_LIMIT_LINE_BYTES", "64M"),
        ("TUNELOOP_LIMIT_BODY_SECONDS", "nan"),
    ],
)
def test_a_bad_value_is_one_sentence_with_its_name(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"\b{name}\b.*, expected ") as caught:
        list(check_environment({name: value}))
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400
    assert "secret" not in said
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TUNELOOP_ARTIFACT", "TUNELOOP_ARTIFACTS"),
        ("TUNELOOP_STORE_URL", "TUNELOOP_STORE"),
        ("TUNELOOP_STORE_TOKENS", "TUNELOOP_STORE_TOKEN"),
        ("TUNELOOP_LIMIT_FILTER", "TUNELOOP_LIMIT_FILTERS"),
        ("TUNELOOP_WEBHOK_URL", "TUNELOOP_WEBHOOK_URL"),
    ],
)
def test_an_unknown_variable_gets_a_warning_with_the_nearest(name: str, nearest: str) -> None:
    (warning,) = check_environment({name: "x", "TUNELOOP_HOME": "/x"})
    assert warning.startswith(f"environment variable {name} is unknown and ignored")
    assert warning.endswith(f"; the nearest is {nearest}")


def test_variables_of_services_and_webhooks_get_no_warning() -> None:
    names = ["STORE_SERVICE_HOST", "STORE_SERVICE_PORT_HTTP", "STORE_PORT", "PORT_80_TCP_ADDR"]
    assert list(check_environment({f"TUNELOOP_{name}": "x" for name in names})) == []
    assert list(check_environment({"TUNELOOP_SLACK_OF_TEAM_URL": "https://x.example"})) == []
    (warning,) = check_environment({"TUNELOOP_XYZ": "x"})
    assert warning.endswith("; unset it")


def verbs(command: object, words: str = "") -> Iterator[tuple[str, list[object]]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, getattr(command, "params")  # noqa: B009 - click has no types here
    for name, each in (inner or {}).items():
        yield from verbs(each, f"{words} {name}".strip())


def test_each_verb_takes_artifacts_and_store_from_the_environment() -> None:
    """A verb of a spec reads them when the spec does not set them."""
    found = dict(verbs(typer.main.get_command(app)))
    seen = set()
    for words, params in found.items():
        takes_spec = any(getattr(each, "name", "") == "spec" for each in params)
        for each in params:
            for option in {"--artifacts", "--store"} & set(getattr(each, "opts", ())):
                expected = f"TUNELOOP_{option[2:].upper()}"
                variable = getattr(each, "envvar", None)
                assert takes_spec or variable == expected, f"{words} {option}"
                assert not (takes_spec and variable), f"{words} {option}: the spec comes first"
                seen.add((words, option))
    assert {("status", "--artifacts"), ("traces list", "--store"), ("plan", "--store")} <= seen


def test_an_option_comes_before_the_spec_and_the_spec_before_the_variable(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELOOP_ARTIFACTS", "/of/the/variable\n")
    monkeypatch.setenv("TUNELOOP_STORE", "http://variable.example:1")
    tiny_run.change(execution__artifacts="/of/the/spec", execution__store_url=None)
    text = tiny_run.spec_path.read_text().replace("  store_url: null\n", "")
    tiny_run.spec_path.write_text(text)
    path = str(tiny_run.spec_path)
    execution = RunOptions(path).with_options(load_run_spec(path)).execution
    assert execution.artifacts == "/of/the/spec"
    assert execution.store_url == "http://variable.example:1"
    options = RunOptions(path, artifacts="/of/the/option", store="http://option.example:1")
    execution = options.with_options(load_run_spec(path)).execution
    assert execution.artifacts == "/of/the/option"
    assert execution.store_url == "http://option.example:1"
    monkeypatch.delenv("TUNELOOP_STORE")
    execution = RunOptions(path).with_options(load_run_spec(path)).execution
    assert execution.store_url == "http://127.0.0.1:8000"


@pytest.mark.parametrize("value", ["s3::gs://bucket/x", "simplecache::s3://bucket/x"])
def test_a_place_that_no_verb_takes_is_named_with_its_variable(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELOOP_ARTIFACTS", value)
    with pytest.raises(UsageError, match=r"^environment variable TUNELOOP_ARTIFACTS: .*is a chain"):
        environment_value("artifacts")


def test_each_verb_refuses_a_bad_variable_and_warns_of_an_unknown_one(
    tuneloop: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUNELOOP_ARTIFACTS", f"{tmp_path}\n")
    monkeypatch.setenv("TUNELOOP_ARTIFACT", "x")
    code, out, err = tuneloop("runs", "du", "--json")
    assert (code, json.loads(out)["artifacts"]) == (0, str(tmp_path))
    assert err.startswith("tuneloop: warning: environment variable TUNELOOP_ARTIFACT is unknown")
    assert len(err.splitlines()) == 1
    monkeypatch.setenv("TUNELOOP_LIMIT_FILTERS", "many")  # which this verb does not read
    code, out, err = tuneloop("runs", "du")
    assert (code, out) == (2, "")
    assert err.startswith(
        "tuneloop: environment variable TUNELOOP_LIMIT_FILTERS is 'many', expected"
    )
    assert tuneloop("runs", "du", "--help")[0] == 0


def test_each_stage_refuses_a_bad_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setenv("TUNELOOP_TERMINATION_LOG", str(log))
    monkeypatch.setenv("TUNELOOP_PROCESSES", "two")
    assert run_stage("export", str(tmp_path / "spec.json")) == 2
    assert "TUNELOOP_PROCESSES is 'two', expected" in json.loads(log.read_bytes())["cause"]


@pytest.mark.parametrize(
    ("given", "options", "mib"),
    [("3\n", (), 3), ("3", ("--verify-below", "5"), 5), (" ", (), 64), ("0", (), 0)],
)
def test_digests_are_checked_up_to_the_size_of_the_variable(
    given: str,
    options: tuple[str, ...],
    mib: int,
    tuneloop: Invoke,
    tiny_run: TinyRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def stop(*_: object, verify_file_bytes: int, **__: object) -> None:
        seen.append(verify_file_bytes)
        raise UsageError("seen")  # before the first stage

    monkeypatch.setattr("tuneloop.runs.sequence.Sequence", stop)
    monkeypatch.setenv("TUNELOOP_VERIFY_BELOW", given)
    code, _, err = tuneloop("run", tiny_run.spec_path, *options)
    assert (code, err.splitlines()[-1], seen) == (2, "tuneloop: seen", [mib << 20])
