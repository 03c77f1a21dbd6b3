"""The command line and the environment of a stage process, on a laptop and in a container.

Both backends use these functions, so a stage that runs on a laptop runs the same way on a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuneloop.artifacts import layout
from tuneloop.settings.environment import read_settings
from tuneloop.specs.stages import StageSpec

COMPLETION_INDEX = "$(JOB_COMPLETION_INDEX)"
"""Replaced by the kubelet with the pod's index, from a variable that the Job controller sets."""

CPU_ENV = {
    # Explicit, so that a CUDA or TPU build of JAX does not search for missing chips.
    "JAX_PLATFORMS": "cpu",
}
"""Environment of a stage on a machine without an accelerator."""


def stage_argv(stage: StageSpec, spec_url: str, *, shard_count: int = 1) -> list[str]:
    """Return the command line of a stage, without the name of the interpreter.

    Args:
        stage: spec of the stage.
        spec_url: URL from which the process reads the stage spec.
        shard_count: processes that share the work; the Job controller gives each its index.
    """
    argv = ["-m", "jobs", stage.stage, "--spec", spec_url]
    if shard_count > 1:
        argv += ["--index", COMPLETION_INDEX, "--count", str(shard_count)]
    return argv


def stage_env(cache: str | Path | None, termination_log: str) -> dict[str, str]:
    """Return the environment of every stage process; an accelerator's row adds to it.

    Args:
        cache: folder that the process may write; None keeps no compiled programs.
        termination_log: file that receives the final error.
    """
    env = {"TUNELOOP_TERMINATION_LOG": termination_log}
    if cache is None:
        return env
    return {
        **env,
        # Compiled programs outlive the process: a second run with the same shapes does not compile.
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/tuneloop/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def shared_cache_env(artifacts: str) -> dict[str, str]:
    """Return the environment of a stage whose compiled programs outlive its machine.

    JAX reads and writes the cache with the same packages as tuneloop does the artifacts.

    Args:
        artifacts: URL of the artifacts prefix on an object store.
    """
    return {
        "JAX_COMPILATION_CACHE_DIR": layout.compilation_cache(artifacts),
        # A shorter compilation takes about as long as asking the store.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        # XLA's own caches of GPU kernels can only be local.
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
    }


def peak_flops_per_second(env: Mapping[str, str]) -> float | None:
    """Return the peak rate of one JAX device in FLOP/s; None if it is unset.

    Raises:
        UsageError: the variable is not a positive number.
    """
    teraflops = read_settings(env).device_peak_tflops
    return None if teraflops is None else teraflops * 1e12
