"""What a stage process is started with: argv and environment, on a laptop and in a container alike.

One rule: both backends take them from here and only put other folders in, so that what ran on a
laptop is what runs on a cluster.
"""

from __future__ import annotations

from tuneloop.specs.stages import StageSpec

COMPLETION_INDEX = "$(JOB_COMPLETION_INDEX)"
"""The kubelet puts the pod's index in; the Job controller sets the variable."""


CPU_ENV = {
    # Explicit, so that a CUDA or TPU build of JAX does not look for chips that are not there.
    "JAX_PLATFORMS": "cpu",
}
"""Environment of a stage on a machine without an accelerator."""


def stage_argv(stage: StageSpec, spec_url: str, *, shard_count: int = 1) -> list[str]:
    """The command line of a stage behind the name of the interpreter.

    Args:
        stage: which stage.
        spec_url: where its process finds the stage spec.
        shard_count: processes that share the work; the Job controller gives each its index.
    """
    argv = ["-m", "jobs", stage.stage, "--spec", spec_url]
    if shard_count > 1:
        argv += ["--index", COMPLETION_INDEX, "--count", str(shard_count)]
    return argv


def stage_env(cache: str, termination_log: str) -> dict[str, str]:
    """The environment of every stage process; an accelerator's row adds its own.

    Args:
        cache: a folder that the process may write.
        termination_log: file that the last sentence goes to.
    """
    return {
        "TUNELOOP_TERMINATION_LOG": termination_log,
        # Compiled programs outlive the process: the second run of a shape does not compile.
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/tuneloop/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
