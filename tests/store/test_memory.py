"""Tests of how a store's process returns memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tuneloop.store.memory import return_freed_memory

_BODIES = """
import os, re, sys
from tuneloop.store.memory import return_freed_memory
if sys.argv[1] == "returned":
    assert return_freed_memory({})
kept, body = [], bytearray(24 << 20)  # glibc takes all later bodies from the heap, like small ones
del body
for size in range(600, 700):
    body = bytearray(size << 10)
    body[::4096] = b"x" * len(body[::4096])
    kept.append((body, bytearray(1000)))  # a small object that outlives the body
kept = [small for body, small in kept]
del body
print(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def _resident_kib(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _BODIES, how], capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_bodies_that_are_gone_take_no_memory() -> None:
    kept, returned = _resident_kib("kept"), _resident_kib("returned")
    assert kept - returned > 40_000, "100 bodies of 64 MiB in all were freed"


@pytest.mark.parametrize(
    "environment", [{"MALLOC_ARENA_MAX": "4"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}]
)
def test_settings_of_the_operator_count(environment: dict[str, str]) -> None:
    assert not return_freed_memory(environment)
