"""Compile a training step in a process of its own, once per step and set of packages.

This process never imports JAX. The results are kept under `<artifacts>/compiled/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib import metadata
from typing import Any

from pydantic import ValidationError

from tuneloop import jsonl, provenance
from tuneloop.artifacts import layout
from tuneloop.errors import DataError, SpecError, TuneloopError, Unavailable, UsageError
from tuneloop.specs.training.compilation import PACKAGES, CompiledStep, CompileRequest
from tuneloop.storage import files
from tuneloop.validation import first_error

DEFAULT_TIMEOUT_SECONDS = 3600.0
"""Seconds that a compilation may take; the layers of a model are compiled one by one."""
_MODULE = "tuneloop.training.compile"
_LAST_LINES = 3
_ENV = {
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask the cloud which machine this is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so processes do not disturb each other
}


class NoDevices(Unavailable):
    """The devices cannot be described here: GPUs are compiled for only where they are present."""


_ERRORS: dict[int, type[TuneloopError]] = {
    each.exit_code: each for each in (DataError, SpecError, NoDevices, UsageError)
}


def compile_train_step(
    request: CompileRequest, artifacts: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
) -> CompiledStep:
    """Compile a training step, or read what the compiler said about the same one before.

    Args:
        request: model, train spec and devices.
        artifacts: URL of the artifacts prefix, which keeps the result.
        timeout_seconds: time that the compilation may take.

    Raises:
        UsageError: the packages that compile are not installed.
        SpecError: the topology is unknown, or the step does not fit the devices' mesh.
        NoDevices: this machine does not have the GPUs.
        Unavailable: the compilation took too long.
    """
    url = layout.compiled_url(artifacts, fingerprint(request))
    try:
        return _parse(files.read(url), url)
    except FileNotFoundError:
        _check_packages(request)
    answer = _run_child(request, timeout_seconds)
    found = _parse(answer, "the compiler's process")
    files.publish(url, found.model_dump_json().encode() + b"\n")
    return found


def fingerprint(request: CompileRequest) -> str:
    """Return the digest of all that determines a compiled step: request, code and packages."""
    identity = {
        "request": request.model_dump(mode="json"),
        "code": provenance.code_identity(f"{_MODULE}.compiled", "requirements/train.txt"),
        "packages": provenance.versions_of(PACKAGES),
    }
    return hashlib.sha256(jsonl.dump_line(identity)).hexdigest()


def _check_packages(request: CompileRequest) -> None:
    needed = {"google-tunix": "train"}
    if request.target.platform == "tpu":
        needed["libtpu"] = "compile"
    for package, extra in needed.items():
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError as e:
            raise UsageError(
                f"plan --compile: {package} is not installed, expected the extra `{extra}`;"
                " install tuneloop[train,compile], or plan without --compile"
            ) from e


def _run_child(request: CompileRequest, timeout_seconds: float) -> bytes:
    platforms = "cpu" if request.target.platform == "tpu" else "cuda,cpu"
    try:
        done = subprocess.run(
            [sys.executable, "-m", _MODULE],
            input=request.model_dump_json().encode() + b"\n",
            capture_output=True,
            env={**os.environ, **_ENV, "JAX_PLATFORMS": platforms},
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise Unavailable(
            f"plan --compile: not finished after {timeout_seconds:g} seconds, expected less; raise"
            " --compile-timeout, or plan without --compile"
        ) from e
    if done.returncode or not done.stdout:
        # libtpu writes warnings about a machine without TPU to stderr; errors come last.
        lines = done.stderr.decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
        raise TuneloopError(
            f"plan --compile: the compiler's process ended with code {done.returncode}:"
            f" {' '.join(lines)}"
        )
    return done.stdout.splitlines()[-1]


def _parse(data: bytes, place: str) -> CompiledStep:
    try:
        answer: dict[str, Any] = json.loads(data)
        if "error" in answer:
            raise _ERRORS.get(answer["code"], TuneloopError)(answer["error"])
        return CompiledStep.model_validate(answer)
    except ValidationError as e:
        raise DataError(f"{place}: {first_error(e)}; delete the file and plan again") from e
    except ValueError as e:
        raise DataError(f"{place}: not JSON ({e}); delete the file and plan again") from e
