from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from tests.training.sft.test_metrics import history
from tuneloop.artifacts.training_metrics import CURVES
from tuneloop.training.sft.tensorboard import EVENTS, dump_events


def masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(data: bytes) -> Iterator[Event]:
    """Read TFRecord framing: length, its checksum, the event, its checksum."""
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 8)[0] == masked_crc(data[at : at + 8])
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked_crc(body)
        yield Event.FromString(body)
        at += 16 + length


def test_every_value_is_a_point_of_its_curve() -> None:
    made = history(3, {0: 3.0, 2: 2.0})
    first, *events = read_events(dump_events(made, ended_at=100.0))
    assert first.file_version == "brain.Event:2"
    points = {
        (value.tag, event.step): value.simple_value
        for event in events
        for value in event.summary.value
    }
    assert {step: v for (tag, step), v in points.items() if tag == "validation/loss"} == {
        0: 3,
        2: 2,
    }
    assert points["train/loss", 3] == pytest.approx(0.1)
    assert points["memory/host_bytes", 1] == 1024
    assert ("memory/device_bytes", 1) not in points  # the backend does not report it
    assert {tag for tag, _ in points} == set(CURVES.values()) - {"memory/device_bytes"}
    # Times are counted back from the end: each step took half a second.
    assert [first.wall_time, events[-1].wall_time] == [98.5, 100]


def test_the_same_history_gives_the_same_bytes_under_a_name_that_tensorboard_finds() -> None:
    made = history(2, {0: 1.0})
    assert dump_events(made, 5.0) == dump_events(made, 5.0)
    assert "tfevents" in EVENTS
