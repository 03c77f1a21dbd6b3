"""Traces of the steps that are asked for, read back from the files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import jax
import pytest
from jax.profiler import ProfileData

from tests.training.tiny import train
from tuneloop.specs.training.profiler import ProfilerSpec
from tuneloop.training.data.table import TokenTable
from tuneloop.training.sft import loop, profiler
from tuneloop.training.text.chat_format import ChatFormat


def traces(folder: Path) -> dict[str, list[int]]:
    """Return the steps of every trace, as both of its files tell them."""
    found = {}
    for trace in sorted((folder / "profile" / profiler.FOLDER).glob("*")):
        (events,) = trace.glob("*.trace.json.gz")
        (xplane,) = trace.glob("*.xplane.pb")
        rows = json.loads(gzip.decompress(events.read_bytes()))["traceEvents"]
        steps = [int(row["args"]["step_num"]) for row in rows if row.get("name") == "train"]
        assert steps == xplane_steps(xplane)
        found[trace.name] = steps
    return found


def xplane_steps(path: Path) -> list[int]:
    planes = ProfileData.from_file(str(path)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    return [int(dict(event.stats)["step_num"]) for event in events if event.name == "train"]


@pytest.fixture
def vocab_size(chat_format: ChatFormat) -> int:
    return chat_format.tokenizer.vocab_size


def test_a_trace_has_the_steps_asked_for_and_changes_no_weight(
    undisturbed: tuple[loop.Progress, bytes], table: TokenTable, vocab_size: int, tmp_path: Path
) -> None:
    asked = ProfilerSpec(first_step=4, last_step=6)
    progress, weights = train(table, vocab_size, tmp_path, profiler=asked)
    assert traces(tmp_path) == {"steps-00004-00006": [4, 5, 6]}
    assert weights == undisturbed[1]
    assert [m.loss for m in progress.metrics] == [m.loss for m in undisturbed[0].metrics]


def test_stopped_in_the_middle_the_rest_is_traced_after_the_resume(
    undisturbed: tuple[loop.Progress, bytes], table: TokenTable, vocab_size: int, tmp_path: Path
) -> None:
    asked = ProfilerSpec(first_step=4, last_step=8)
    stopped, _ = train(table, vocab_size, tmp_path, 5, profiler=asked)
    last = len(stopped.metrics)
    assert 4 < last < 8
    assert traces(tmp_path) == {f"steps-00004-{last:05d}": list(range(4, last + 1))}
    resumed, weights = train(table, vocab_size, tmp_path, profiler=asked)
    assert resumed.resumed_from == last
    assert list(traces(tmp_path).values())[1:] == [list(range(last + 1, 9))]
    assert weights == undisturbed[1]


def test_steps_that_are_past_are_not_traced(
    table: TokenTable, vocab_size: int, tmp_path: Path
) -> None:
    train(table, vocab_size, tmp_path, 5)
    train(table, vocab_size, tmp_path, profiler=ProfilerSpec(first_step=1, last_step=3))
    assert traces(tmp_path) == {}


def test_a_training_that_ends_before_the_first_of_them_leaves_no_trace(
    table: TokenTable, vocab_size: int, tmp_path: Path
) -> None:
    train(table, vocab_size, tmp_path, profiler=ProfilerSpec(first_step=13, last_step=14))
    assert traces(tmp_path) == {}
    jax.profiler.start_trace(str(tmp_path / "other"))  # fails if a trace were still going on
    jax.profiler.stop_trace()


def test_a_store_that_fails_loses_the_trace_and_not_the_training(
    table: TokenTable, vocab_size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "profile").write_text("a file in the place of the folder")
    asked = ProfilerSpec(first_step=2, last_step=2)
    progress, _ = train(table, vocab_size, tmp_path, profiler=asked)
    assert progress.finished
    assert "the profile of steps 2 to 2 is lost" in caplog.text


def test_the_last_step_comes_after_the_first() -> None:
    with pytest.raises(ValueError, match="last_step is 3, expected at least first_step"):
        ProfilerSpec(first_step=4, last_step=3)
