"""Tests of how a store's process returns memory."""

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tuneloop.store.db.database import Database
from tuneloop.store.memory import LARGE_JSON_BYTES, decoding, return_freed_memory
from tuneloop.store.routes import request_parsing

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


def _trace(meta: object, text: str = "c") -> bytes:
    step = {"i": 0, "type": "t", "content": text}
    whole = {"trace_version": "1", "prompt": "p", "final_answer": "a", "steps": [step]}
    return json.dumps({**whole, "meta": {"a": meta}}).encode()


_LARGE = _trace([[]] * (LARGE_JSON_BYTES // 3))
_FLOATS = _trace([[1e16]] * (LARGE_JSON_BYTES // 8))
_REFUSED = _trace([[]] * (LARGE_JSON_BYTES // 3), text="")


@pytest.mark.parametrize("body", [_LARGE, _FLOATS, _REFUSED])
def test_large_json_is_decoded_one_at_a_time(body: bytes) -> None:
    ended = threading.Event()

    def parse() -> None:
        try:
            request_parsing.parse_array(b"[" + body + b"]")
        except request_parsing.Refused:
            pass
        ended.set()

    other = threading.Thread(target=parse)
    with decoding(LARGE_JSON_BYTES + 1):
        other.start()
        assert not ended.wait(0.1), "the objects of two large texts are in memory"
    assert ended.wait(20)
    other.join(20)


def test_small_json_waits_for_no_other(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    stored = [*request_parsing.parse_array(b"[" + _trace(["é"]) + b"," + _LARGE + b"]")]
    small, large = database.insert_batch(stored, now=datetime.now(UTC))
    read: list[str] = []

    def look(trace_id: str) -> None:
        with database.reading(trace_id) as found:
            assert found is not None
            read.append(found.payload)

    others = [threading.Thread(target=look, args=(each.id,)) for each in (small, large)]
    with decoding(LARGE_JSON_BYTES + 1):
        for other in others:
            other.start()
        others[0].join(20)
        assert len(read) == 1
    others[1].join(20)
    assert read == [stored[0].payload, stored[1].payload]
    database.close()
