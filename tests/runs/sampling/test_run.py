"""A sampling run from the shell: run, look, verify, and kill it at any moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders import Invoke
from tests.chat_model import write_chat_model
from tests.sampling import Sampling, make_sampling
from tuneloop.artifacts import records

KILLS = 2


@pytest.fixture
def sampling(tmp_path: Path) -> Sampling:
    made = make_sampling(tmp_path)
    write_chat_model(Path(made.artifacts, "models", "tiny"), 1)
    return made


def test_samples_are_imported_and_every_verb_knows_the_run(
    sampling: Sampling, store: str, tuneloop: Invoke
) -> None:
    sampling.change(execution__store_url=store, **{"import": {"batch_traces": 10}})
    code, out, err = tuneloop("run", sampling.spec_path, "--json")
    assert code == 0, err
    found = json.loads(out)
    run_id, place = found["run_id"], ("--artifacts", sampling.artifacts)
    assert [row["name"] for row in found["stages"]] == ["sample", "import"]
    counts = found["samples"]
    assert counts["samples"] == counts["correct"] + counts["wrong"] + counts["error"] == 24
    code, out, err = tuneloop("traces", "export", "--store", store)
    assert code == 0, err
    traces = [json.loads(line) for line in out.splitlines()]
    assert len(traces) == 24
    assert [trace.get("reward") for trace in traces].count(None) == counts["error"]
    assert {trace["meta"]["source"] for trace in traces} == {"sample"}
    code, out, err = tuneloop("run", sampling.spec_path)
    assert (code, "cached" in out, "24 traces in the store" in out) == (0, True, True)
    for verb, said in (
        (("status", run_id), "done"),
        (("runs", "show", run_id), "mean reward"),
        (("runs", "list"), "finished"),
        (("runs", "compare", run_id, run_id), "mean_reward"),
        (("report", run_id), "# Samples"),
        (("report", run_id, "--format", "comment"), "24 samples of 6 prompts"),
        (("report", run_id, "--format", "json"), '"pass_at"'),
        (("logs", run_id, "sample"), "published after"),
        (("verify", run_id), ""),
        (("runs", "gc"), ""),
    ):
        code, out, err = tuneloop(*verb, *place)
        assert code == 0, (verb, out, err)
        assert said in out, (verb, out)
    page_of_run = httpx.get(f"{store}/runs/{run_id}")
    assert page_of_run.status_code == 200
    code, out, err = tuneloop("models", "list", *place)
    assert code == 0, err
    # The model that a run samples from is no garbage.
    code, out, err = tuneloop("runs", "gc", "--kind", "models", "--days", "0", *place)
    assert (code, "models/tiny" in out) == (0, False), err


def test_killed_anywhere_the_samples_have_the_same_bytes(sampling: Sampling) -> None:
    # Small batches take long enough that each attempt saves some of them.
    sampling.change(sample__completions=120, sample__batch_size=2)
    plan = sampling.plan()
    whole = Path(sampling.artifacts).with_name("whole")
    shutil.copytree(sampling.artifacts, whole)
    assert sample(sampling, whole).wait(timeout=120) == 0
    saved = Path(sampling.artifacts, "training_runs", plan.run_id, "sample/resume/answers/all")
    rng = random.Random(20)
    for kill in range(KILLS):
        process = sample(sampling, Path(sampling.artifacts))
        while process.poll() is None and len(list(saved.glob("*.json"))) <= kill:
            time.sleep(0.02)
        time.sleep(rng.random() / 2)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert records.find(sampling.artifacts, plan.run_id, "sample") is None
    assert sample(sampling, Path(sampling.artifacts)).wait(timeout=120) == 0
    log = Path(sampling.artifacts, "training_runs", plan.run_id, "sample/log.txt").read_text()
    assert "finished batches of an earlier attempt are used again" in log
    assert contents(Path(sampling.artifacts), plan.run_id) == contents(whole, plan.run_id)


def sample(made: Sampling, artifacts: Path) -> subprocess.Popen[bytes]:
    """Start the stage alone, in a process of its own."""
    made.change(execution__artifacts=str(artifacts))
    stage = made.plan().stages[0]
    url = artifacts / "spec.json"
    url.write_bytes(stage.model_dump_json(by_alias=True).encode())
    return subprocess.Popen(
        [sys.executable, "-m", "jobs", "sample", "--spec", str(url)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def contents(artifacts: Path, run_id: str) -> Any:
    record = records.find(str(artifacts), run_id, "sample")
    assert record is not None
    for file in record.outputs:
        records.read_output(file, str(artifacts))
    return record.content(), record.counts, record.results
