"""The compiler flags of the accelerator table, tried with the pinned compilers.

XLA and libtpu end the process that they are loaded in if they do not know a flag.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.k8s.accelerators.test_shapes import TABLE
from tests.training.compile.cells import need_libtpu
from tuneloop.specs.cluster import AcceleratorRequest

UNKNOWN = {
    "XLA_FLAGS": "--xla_gpu_no_such_flag=true",
    "LIBTPU_INIT_ARGS": "--xla_tpu_no_such_flag=true",
}
PROGRAMS = {
    "XLA_FLAGS": "import jax; jax.devices('cpu')",
    "LIBTPU_INIT_ARGS": "from jax.experimental.topologies import get_topology_desc as get;"
    "get(platform='tpu', topology_name='v5e:2x2')",
}
"""Variable -> program that reads it."""


def loads(variable: str, value: str) -> bool:
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    env |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", variable: value}
    done = subprocess.run([sys.executable, "-c", PROGRAMS[variable]], env=env, capture_output=True)
    return done.returncode == 0


def values(variable: str) -> set[str]:
    shapes = [TABLE.shape(AcceleratorRequest(accelerator=k)) for k in TABLE.keys()]
    return {shape.env[variable] for shape in shapes if variable in shape.env}


@pytest.mark.parametrize("variable", sorted(UNKNOWN))
def test_the_pinned_compiler_knows_every_flag_of_the_table(variable: str) -> None:
    if variable == "LIBTPU_INIT_ARGS":
        need_libtpu()
    assert not loads(variable, UNKNOWN[variable])
    assert all(loads(variable, value) for value in {"", *values(variable)})


def test_gpus_have_flags() -> None:
    assert values("XLA_FLAGS")
