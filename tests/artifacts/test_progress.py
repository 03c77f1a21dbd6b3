from __future__ import annotations

import json
import math

import pytest

from tuneloop.artifacts.progress import Progress, dump_progress, read_progress
from tuneloop.storage import files, paths

PREFIX = "memory://progress/training_runs/r-1/train"
AT = "2026-11-27T00:00:00+00:00"


def write(data: bytes) -> None:
    files.write(paths.join(PREFIX, "progress.json"), data)


def seal_of(data: bytes) -> bytes:
    seal: str = json.loads(data)["seal"]
    assert len(seal) == 64
    return seal.encode()


def test_only_what_was_set_is_written_with_sorted_keys() -> None:
    progress = Progress(stage="train", attempt="a", updated_at=AT)
    assert dump_progress(progress) == (
        b'{"attempt": "a", "seal": "%s", "stage": "train",'
        b' "updated_at": "2026-11-27T00:00:00+00:00"}\n' % seal_of(dump_progress(progress))
    )
    value = {"step": 1, "total": 2, "rate_per_second": None, "loss": 0.5, "own": 3}
    progress = Progress.model_validate({"stage": "train", "updated_at": AT, **value})
    assert dump_progress(progress) == (
        b'{"loss": 0.5, "own": 3, "rate_per_second": null, "seal": "%s", "stage": "train",'
        b' "step": 1, "total": 2, "updated_at": "2026-11-27T00:00:00+00:00"}\n'
        % seal_of(dump_progress(progress))
    )
    write(dump_progress(progress))
    assert read_progress(PREFIX) == progress


def test_a_loss_that_is_no_number_reads_back() -> None:
    write(dump_progress(Progress(updated_at=AT, step=1, total=2, loss=math.nan)))
    found = read_progress(PREFIX)
    assert found is not None
    assert found.loss is not None
    assert math.isnan(found.loss)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"step": 1', b'{"step": "one"}'])
def test_a_torn_heartbeat_is_none(data: bytes) -> None:
    write(data)
    assert read_progress(PREFIX) is None


def test_none_before_the_first() -> None:
    assert read_progress("memory://progress/none") is None
