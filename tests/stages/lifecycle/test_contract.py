from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main
from tuneloop import errors
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.stage_logs.own import attempt_in
from tuneloop.errors import (
    DataError,
    InputMissing,
    OutOfMemory,
    PermissionDenied,
    SpecError,
    Transient,
    Unavailable,
    UsageError,
)
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.lifecycle.contract import run_stage
from tuneloop.storage import files, paths


@pytest.fixture
def spec_url(tiny_run: Any) -> str:
    url = str(tiny_run.folder / "export.json")
    Path(url).write_text(tiny_run.plan().stages[0].model_dump_json())
    return url


@pytest.fixture
def termination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination"
    path.touch()
    monkeypatch.setenv("TUNELOOP_TERMINATION_LOG", str(path))
    return path


def write_one(spec: Any, stage: Stage) -> None:
    stage.write_output("examples-00000-of-00001.jsonl", b"{}\n")
    stage.counts["examples"] = 1


def prefix_of(tiny_run: Any) -> Path:
    return Path(layout.stage_prefix(tiny_run.artifacts, tiny_run.plan().run_id, "export"))


def test_a_stage_publishes_its_record_last(tiny_run: Any, spec_url: str) -> None:
    assert run_stage("export", spec_url, write_one) == 0
    record = records.find(tiny_run.artifacts, tiny_run.plan().run_id, "export")
    assert record is not None
    assert record.output("examples-00000-of-00001.jsonl").rows == 1
    assert record.counts == {"examples": 1}
    assert set(record.provenance) >= {"git_commit", "code_sha256", "python", "libraries"}
    log = (prefix_of(tiny_run) / "log.txt").read_text()
    assert "published after" in log
    assert json.loads((prefix_of(tiny_run) / "progress.json").read_bytes())["stage"] == "export"


def test_the_log_of_each_attempt_is_kept(tiny_run: Any, spec_url: str) -> None:
    """log.txt is that of the latest attempt; an earlier one's lines are what stderr had."""
    assert run_stage("export", spec_url, fail_with(DataError("the first try's"))) == 65
    first = (prefix_of(tiny_run) / "log.txt").read_bytes()
    assert b"ERROR the first try's\n" in first
    assert run_stage("export", spec_url, write_one) == 0
    assert b"the first try's" not in (prefix_of(tiny_run) / "log.txt").read_bytes()
    (kept,) = prefix_of(tiny_run).glob("attempts/*/log.txt")
    assert kept.read_bytes() == first
    assert attempt_in(first.splitlines()) == kept.parent.name


def test_a_stage_that_finds_its_record_does_nothing(spec_url: str) -> None:
    assert run_stage("export", spec_url, write_one) == 0
    assert run_stage("export", spec_url, lambda spec, stage: pytest.fail("ran again")) == 0


def test_no_credential_of_the_environment_is_in_the_log_or_the_last_message(
    tiny_run: Any, spec_url: str, termination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok3n-of-the-pod")

    def run(spec: Any, stage: Stage) -> None:
        logging.getLogger("tuneloop.x").warning("sent Authorization: Bearer %s", "other-t0ken")
        raise ValueError("GET https://u:pa55@h/?token=abc: 403 for tok3n-of-the-pod")

    assert run_stage("export", spec_url, run) == 70
    texts = (prefix_of(tiny_run) / "log.txt").read_text(), termination.read_text()
    for text in texts:
        assert "GET https://u:[redacted]@h/?token=[redacted] 403 for [redacted]" in text
        assert not [each for each in ("tok3n", "t0ken", "pa55", "abc") if each in text]
    assert "sent Authorization: Bearer [redacted]" in texts[0]


def fail_with(error: Exception) -> Callable[[Any, Stage], None]:
    def run(spec: Any, stage: Stage) -> None:
        stage.write_output("examples-00000-of-00001.jsonl", b"{}\n")
        raise error

    return run


class XlaRuntimeError(RuntimeError):
    """As jaxlib's is named; export runs where jaxlib is not installed."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (DataError("x"), 65),
        (InputMissing("x"), 66),
        (Unavailable("x"), 69),
        (ValueError("a bug"), 70),
        (OutOfMemory("x"), 71),
        (MemoryError(), 71),
        (XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"), 71),
        (XlaRuntimeError("INTERNAL"), 70),
        (OSError(28, "No space left on device"), 69),
        (PermissionError(13, "Permission denied"), 77),
        (FileNotFoundError(2, "a file of ours is missing"), 70),
        (Transient("x"), 75),
        (PermissionDenied("x"), 77),
        (SpecError("x"), 78),
    ],
)
def test_every_failure_has_its_exit_code_and_leaves_no_record(
    error: Exception, code: int, tiny_run: Any, spec_url: str, termination: Path
) -> None:
    assert run_stage("export", spec_url, fail_with(error)) == code
    message = json.loads(termination.read_bytes())
    assert message["exit_code"] == code
    assert records.find(tiny_run.artifacts, tiny_run.plan().run_id, "export") is None
    # What it had is still there for people to look at.
    assert list((prefix_of(tiny_run) / "attempts").glob("*/examples-*"))


def test_a_bug_leaves_its_traceback_in_the_log(
    tiny_run: Any, spec_url: str, termination: Path
) -> None:
    run_stage("export", spec_url, fail_with(ValueError("a bug")))
    log = (prefix_of(tiny_run) / "log.txt").read_text()
    assert "Traceback" in log
    assert json.loads(termination.read_bytes())["cause"] == "ValueError: a bug"


def test_an_expected_failure_is_one_line_without_traceback(
    tiny_run: Any, spec_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        run_stage("export", spec_url, fail_with(DataError("f:3: broken; mend the line")))
    assert [r.getMessage() for r in caplog.records] == ["f:3: broken; mend the line"]


def test_the_termination_message_fits(spec_url: str, termination: Path) -> None:
    run_stage("export", spec_url, fail_with(DataError("🗼" * 100_000)))
    assert len(termination.read_bytes()) <= 4096
    json.loads(termination.read_bytes())


@pytest.mark.parametrize(
    ("module", "extra"), [("duckdb", "data"), ("sentencepiece", "train"), ("tokenizers", "train")]
)
def test_a_missing_extra_says_what_to_install(
    module: str, extra: str, spec_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = ModuleNotFoundError(f"No module named '{module}'", name=module)
    assert run_stage("export", spec_url, fail_with(error)) == 2
    assert f"{module} is not installed; install the {extra} extra" in caplog.text


def test_a_signal_asks_the_stage_to_stop(spec_url: str) -> None:
    import os
    import signal

    def run(spec: Any, stage: Stage) -> None:
        stage.check_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stage.should_stop()
        stage.check_stop()

    assert run_stage("export", spec_url, run) == 75


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (None, 66, "missing; plan the run first"),
        ("{", 78, "plan the run again"),
        ('{"stage": "bake"}', 78, "stage is 'bake', expected 'export' or 'train' or 'eval' or"),
        ('{"stage": "export"}', 78, "spec.json: run_id is missing, expected every required key"),
    ],
)
def test_a_bad_spec_is_refused(
    text: str | None, code: int, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spec.json"
    if text is not None:
        path.write_text(text)
    assert run_stage("export", str(path), write_one) == code
    assert message in caplog.text


def test_the_spec_of_another_stage_is_refused(
    spec_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert run_stage("train", spec_url, write_one) == 2
    assert "found the spec of stage export, expected one of stage train" in caplog.text


def test_the_dispatcher_runs_the_real_export(tiny_run: Any, spec_url: str) -> None:
    assert main(["export", "--spec", spec_url]) == 0
    record = records.find(tiny_run.artifacts, tiny_run.plan().run_id, "export")
    assert record is not None
    lines = files.read(paths.join(tiny_run.artifacts, record.outputs[0].path)).splitlines()
    example = json.loads(lines[0])
    assert example["prompt"] == "Upper: red a"
    assert example["response"] == "Reasoning:\n1. a -> A\nAnswer: A"
    assert set(example["metadata"]) >= {"source_trace_id", "dataset_build_id", "recipe"}


def test_one_changed_byte_in_a_shard_is_a_data_error(
    tiny_run: Any, spec_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    (shard,) = Path(tiny_run.artifacts).glob("datasets/*/attempts/*/traces-*")
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert main(["export", "--spec", spec_url]) == 65
    assert shard.name in caplog.text
    assert records.find(tiny_run.artifacts, tiny_run.plan().run_id, "export") is None


def test_only_the_chosen_stage_is_imported(repository: Path) -> None:
    """`export --help` must start in a container without JAX, and at once."""
    code = (
        "import sys; from jobs.__main__ import main\n"
        "try: main(['export', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'tunix', 'sqlalchemy', 'fastapi', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, capture_output=True)


def test_exit_codes_are_the_documented_ones(repository: Path) -> None:
    documented = (repository / "docs/explanation/architecture.md").read_text()
    classes: list[type[errors.TuneloopError]] = [
        c
        for c in vars(errors).values()
        if isinstance(c, type)
        and c.__module__ == "tuneloop.errors"
        and c is not errors.QuotaExceeded  # of verbs alone
    ]
    for code in {c.exit_code for c in classes} - {errors.TuneloopError.exit_code}:
        assert f"| {code} |" in documented
