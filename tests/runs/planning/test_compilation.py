"""Compiling a step in another process: results that are kept, and what can go wrong."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.training.compile.cells import Cell
from tuneloop.artifacts import layout
from tuneloop.errors import DataError, SpecError, TuneloopError, Unavailable, UsageError
from tuneloop.runs.planning.compilation import NoDevices, compile_train_step, fingerprint
from tuneloop.storage import files

REQUEST = Cell("gemma3", "full", "v5e-2x2").request
ANSWER: dict[str, Any] = {
    "argument_bytes": 100,
    "temp_bytes": 50,
    "output_bytes": 60,
    "alias_bytes": 50,
    "code_bytes": 1,
    "peak_bytes": 120,
    "lower_seconds": 1.0,
    "compile_seconds": 2.0,
    "versions": {"jax": "1"},
}


class Child:
    """Stands for the process that compiles."""

    def __init__(self, stdout: str, returncode: int = 0, stderr: str = "") -> None:
        self.calls: list[dict[str, Any]] = []
        self._done = subprocess.CompletedProcess([], returncode, stdout.encode(), stderr.encode())

    def __call__(self, argv: list[str], **how: Any) -> Any:
        self.calls.append(how)
        return self._done


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "1")


def given(monkeypatch: pytest.MonkeyPatch, *child: Any) -> Child:
    found = Child(*child)
    monkeypatch.setattr(subprocess, "run", found)
    return found


def test_a_result_is_kept_and_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = given(monkeypatch, "printed by a library\n" + json.dumps(ANSWER))
    first = compile_train_step(REQUEST, str(tmp_path))
    assert first == compile_train_step(REQUEST, str(tmp_path))
    assert first.required_bytes == 160  # arguments, temporaries, and results of their own
    (call,) = child.calls
    assert call["env"]["JAX_PLATFORMS"] == "cpu"
    other = Cell("gemma3", "full", "v5e-2x2", train={"remat": "block"}).request
    assert fingerprint(other) != fingerprint(REQUEST)


def test_a_broken_result_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = layout.compiled_url(str(tmp_path), fingerprint(REQUEST))
    files.publish(url, b'{"argument_bytes": 1}\n')
    with pytest.raises(DataError, match=r"compiled/.*json: .* delete the file and plan again"):
        compile_train_step(REQUEST, str(tmp_path))


@pytest.mark.parametrize(
    ("code", "expected"), [(78, SpecError), (69, NoDevices), (1, TuneloopError)]
)
def test_an_expected_failure_keeps_its_class(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, expected: type[Exception]
) -> None:
    given(monkeypatch, json.dumps({"error": "libtpu refuses it", "code": code}))
    with pytest.raises(expected, match="libtpu refuses it"):
        compile_train_step(REQUEST, str(tmp_path))
    assert not list(tmp_path.rglob("*.json"))


def test_a_process_that_dies_is_reported_with_its_last_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(monkeypatch, "", -9, "harmless\n" * 9 + "a\nb\nkilled")
    with pytest.raises(TuneloopError, match=r"ended with code -9: a b killed$"):
        compile_train_step(REQUEST, str(tmp_path))


def test_a_time_limit_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def slow(*_: Any, timeout: float, **__: Any) -> Any:
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(Unavailable, match=r"not finished after 7 seconds.*--compile-timeout"):
        compile_train_step(REQUEST, str(tmp_path), timeout_seconds=7)


def test_without_libtpu_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def version(name: str) -> str:
        if name == "libtpu":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UsageError, match="libtpu is not installed, expected the extra `compile`"):
        compile_train_step(REQUEST, str(tmp_path))
