from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from tuneloop import jsonl
from tuneloop.storage import files
from tuneloop.training.sft import metrics
from tuneloop.training.sft.metrics import History, StepMetrics


def row(step: int) -> StepMetrics:
    return StepMetrics(
        step=step,
        loss=float(np.float32(0.1)),
        learning_rate=0.0,
        grad_norm=1.5,
        tokens=10,
        padding_share=0.25,
        step_seconds=0.5,
        tokens_per_second=20.0,
        host_memory_bytes=1024,
        device_memory_bytes=None,
        data_wait_seconds=0.001,
        compile_seconds=0.0,
        mfu=0.4,
    )


def history(steps: int, losses: dict[int, float]) -> History:
    made = History()
    for step in range(steps + 1):
        if step in losses:
            made.add_validation(step, losses[step])
        if step < steps:
            made.add(row(step + 1))
    return made


def test_dumped_metrics_are_strict_json() -> None:
    assert metrics.dump_metrics(history(1, {})) == (
        b'{"compile_seconds":0.0,"data_wait_seconds":0.001,"device_memory_bytes":null,'
        b'"grad_norm":1.5,"host_memory_bytes":1024,"learning_rate":0.0,'
        b'"loss":0.10000000149011612,"mfu":0.4,"padding_share":0.25,"step":1,"step_seconds":0.5,'
        b'"tokens":10,"tokens_per_second":20.0,"validation_loss":null}\n'
    )


def test_files_of_earlier_versions_lack_fields_and_are_read() -> None:
    new = ("data_wait_seconds", "compile_seconds", "mfu")
    line = json.loads(metrics.dump_metrics(history(1, {})))
    old = jsonl.dump_line({name: value for name, value in line.items() if name not in new})
    (found,) = metrics.parse_metrics(old).steps
    assert found == replace(row(1), data_wait_seconds=None, compile_seconds=None, mfu=None)


def test_the_validation_loss_before_training_is_a_line_of_its_own() -> None:
    lines = metrics.dump_metrics(history(2, {0: 3.0, 2: 2.0})).splitlines()
    assert lines[0] == b'{"step":0,"validation_loss":3.0}'
    assert [b'"validation_loss":2.0' in line for line in lines] == [False, False, True]


@pytest.mark.parametrize("losses", [{}, {0: 3.0}, {0: 3.0, 2: 2.0, 3: 2.5}])
def test_stored_and_read_it_is_the_same_history(losses: dict[int, float], tmp_path: Path) -> None:
    made = history(3, losses)
    files.write(metrics.metrics_url(str(tmp_path)), metrics.dump_history(made))
    assert metrics.read_history(str(tmp_path)) == made
    assert metrics.read_history(str(tmp_path / "none")) == History()


def test_a_validation_is_in_the_row_of_its_step_whichever_comes_first() -> None:
    made = history(2, {})
    made.add_validation(2, 0.5)
    assert [each.validation_loss for each in made.steps] == [None, 0.5]
    made.add_validation(3, 0.4)
    assert made.add(row(3)).validation_loss == 0.4


def test_a_validation_without_the_metrics_of_its_step_is_not_stored() -> None:
    made = history(2, {2: 0.5})
    made.add_validation(3, 0.4)
    stored = metrics.parse_metrics(metrics.dump_metrics(made))
    assert stored.validation_losses == {2: 0.5}


def test_cut_forgets_what_came_later() -> None:
    made = history(4, {0: 3.0, 2: 2.0, 4: 1.0})
    made.cut(2)
    assert made == history(2, {0: 3.0, 2: 2.0})


@pytest.mark.parametrize(
    ("losses", "best", "since"),
    [
        ({}, None, 0),
        ({0: 1.0}, None, 0),
        ({0: 1.0, 2: 3.0}, 2, 0),
        ({0: 9.0, 2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0}, 4, 2),
    ],
)
def test_the_best_step_is_the_first_with_the_lowest_loss_after_training(
    losses: dict[int, float], best: int | None, since: int
) -> None:
    made = history(8, losses)
    assert (made.best_step(), made.validations_since_best()) == (best, since)


def test_memory_is_in_bytes() -> None:
    array = jax.numpy.ones(1 << 20)
    host, device = metrics.memory_bytes()
    assert array.nbytes < host < 1 << 40
    assert device is None or device >= array.nbytes
    assert device is not None or jax.default_backend() == "cpu", sys.platform


def test_a_process_does_not_report_the_memory_of_the_one_that_started_it() -> None:
    """The parent allocates 1 GiB; Linux copies its peak into `ru_maxrss` of the child."""
    child = "from tuneloop.training.sft import metrics; print(metrics.memory_bytes()[0])"
    parent = (
        "import subprocess, sys; large = bytearray(1 << 30);"
        "subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    )
    found = subprocess.run(
        [sys.executable, "-c", parent, child], capture_output=True, text=True, check=True
    )
    assert 1 << 20 < int(found.stdout) < 1 << 30


@pytest.mark.parametrize("position", range(0, 1900, 37))
@pytest.mark.parametrize("bit", [1, 16])
def test_a_flipped_bit_ends_the_history_before_its_line(
    position: int, bit: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = history(5, {0: 3.0, 2: 2.0, 4: 1.0})
    data = bytearray(metrics.dump_history(made))
    position %= len(data)
    line = data.count(b"\n", 0, position)
    data[position] ^= bit
    files.write(metrics.metrics_url(str(tmp_path)), bytes(data))
    found = metrics.read_history(str(tmp_path))
    made.cut(max(0, line - 1))
    assert found.steps == made.steps
    assert f"metrics.jsonl:{line + 1}: was changed" in caplog.text


def test_files_without_seals_are_read(tmp_path: Path) -> None:
    made = history(3, {2: 2.0})
    files.write(metrics.metrics_url(str(tmp_path)), metrics.dump_metrics(made))
    assert metrics.read_history(str(tmp_path)) == made
