"""Verbs of cluster runs on local runs, and what eval sets and binary inputs are told."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.builders import Invoke
from tests.history.trees import heartbeat, write_manifest, write_run

RUN = "letters-00000001"


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    root = str(tmp_path / "artifacts")
    write_run(root, RUN, ["export"])
    return root


def test_status_of_a_local_run(tuneloop: Invoke, artifacts: str) -> None:
    for age, state in ((timedelta(0), "running"), (timedelta(hours=3), "stopped")):
        heartbeat(artifacts, RUN, "train", datetime.now(UTC) - age, step=3, total=9)
        code, out, err = tuneloop("status", RUN, "--artifacts", artifacts, "--json")
        assert code == 0, err
        stages = {stage["name"]: stage for stage in json.loads(out)["stages"]}
        assert {name: each["state"] for name, each in stages.items()} == {
            **{"export": "done", "train": state, "eval": "to run", "import": "to run"}
        }
        assert stages["train"]["step"] == "3/9"
    code, out, _ = tuneloop("status", RUN, "--artifacts", artifacts)
    assert code == 0
    assert "stopped" in out


def test_explain_of_a_local_run(tuneloop: Invoke, artifacts: str) -> None:
    heartbeat(artifacts, RUN, "train", datetime.now(UTC) - timedelta(hours=3), step=3, total=9)
    code, out, err = tuneloop("explain", RUN, "--artifacts", artifacts)
    assert code == 0, err
    assert "train: stopped" in out
    assert "run the spec again to continue" in out
    write_run(artifacts, "letters-00000002")
    code, out, _ = tuneloop("explain", "letters-00000002", "--artifacts", artifacts)
    assert (code, out) == (0, "letters-00000002: every stage is done\n")


@pytest.mark.parametrize("verb", ["status", "explain"])
def test_a_run_that_does_not_exist(tuneloop: Invoke, artifacts: str, verb: str) -> None:
    write_manifest(artifacts, "another-00000003")
    code, out, err = tuneloop(verb, "never-00000009", "--artifacts", artifacts)
    assert (code, out) == (2, "")
    assert "check the run id" in err


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (gzip.compress(b'{"id": "a"}\n' * 900, mtime=0), "gzip data"),
        (bz2.compress(b"{}\n"), "bzip2 data"),
        (lzma.compress(b"{}\n"), "xz data"),
        (b"\x28\xb5\x2f\xfd\x00", "zstd data"),
        (b"PAR1\x15\x00\n\n", "a Parquet file"),
        ('{"id": "ü"}\n'.encode("utf-16"), "UTF-16 text"),
        (b"\x7fELF\x00\x00\n\xff\n", "binary data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_binary_input_is_named(tuneloop: Invoke, tmp_path: Path, data: bytes, kind: str) -> None:
    file = tmp_path / "input.jsonl"
    file.write_bytes(data)
    for verb in (("eval-sets", "check"), ("traces", "import"), ("plan",)):
        code, out, err = tuneloop(*verb, file)
        if verb == ("plan",) and kind == "UTF-16 text":
            continue  # YAML may be UTF-16
        if verb == ("traces", "import") and kind in ("gzip data", "zstd data"):
            continue  # it reads compressed files
        assert (code in (3, 12), out) == (True, "")
        assert f"{file}: is {kind}, expected text" in err
        assert len(err.splitlines()) <= 2


def test_one_cause_over_many_lines_is_one_line(tuneloop: Invoke, tmp_path: Path) -> None:
    item = {"id": "a", "prompt": "x", "expected_answer": "1", "difficulty": "easy"}
    file = tmp_path / "set.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for _ in range(50)) + "[]\n")
    code, _, err = tuneloop("eval-sets", "check", file)
    first, second, last = err.splitlines()
    assert code == 12
    assert first.startswith(f"{file}:1: category is missing")
    assert first.endswith("(also on lines 2, 3, 4, 5, 6, 7, 8, 9 and 41 more)")
    assert second.startswith(f"{file}:51: found a list")
    assert "51 problems, expected none" in last
