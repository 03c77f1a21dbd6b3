from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.artifacts.stage_logs.test_lines import at
from tuneloop.artifacts.stage_logs.archive import (
    Archive,
    ArchiveWriter,
    AttemptEnd,
    parts_of,
)
from tuneloop.artifacts.stage_logs.attempt import Attempt, list_attempts
from tuneloop.artifacts.stage_logs.lines import Line
from tuneloop.storage import files

ATTEMPT = Attempt(3, "20261118T110640Z", "run-train-abc-0-0-x7k2p", "9d0c-uid", 1)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(str(tmp_path), ATTEMPT)


def stored(archive: Archive) -> list[Line]:
    return [line for name in parts_of(archive.names()) for line in archive.read_part(name)]


def append(writer: ArchiveWriter, lines: list[Line]) -> None:
    writer.add(writer.window.add(lines))
    writer.flush()


def test_a_folder_names_its_attempt(tmp_path: Path) -> None:
    assert Attempt.from_folder(ATTEMPT.folder) == ATTEMPT
    for name in ("", "a_b_c_d_e", "00000_x", "x_20261118T110640Z_p_u_0", ".DS_Store"):
        assert Attempt.from_folder(name) is None
    assert list_attempts(str(tmp_path)) == []
    for attempt in (ATTEMPT, Attempt(0, "2", "p", "u"), Attempt(0, "1", "q", "v")):
        Archive(str(tmp_path), attempt).write_end(AttemptEnd())
    assert [each.pod for each in list_attempts(str(tmp_path))] == ["q", "p", ATTEMPT.pod]


def test_each_flush_is_an_object_of_its_own(archive: Archive) -> None:
    writer = ArchiveWriter(archive)
    for second in range(3):
        append(writer, [at(second)])
    writer.flush()  # nothing is pending
    assert archive.names() == ["part-000000.log", "part-000001.log", "part-000002.log"]
    assert stored(archive) == [at(0), at(1), at(2)]


def test_a_writer_continues_what_another_one_has_stored(archive: Archive) -> None:
    """The second supervisor reads from the kubelet what the first one has stored already."""
    log = [at(second / 4, b"same") for second in range(0, 40) for _ in range(2)]
    for stop in range(0, len(log) + 1, 7):
        append(ArchiveWriter(archive), log[:stop])
    append(ArchiveWriter(archive), log)
    assert stored(archive) == log


def test_two_writers_store_each_line_once(archive: Archive) -> None:
    """Two supervisors at once; each has read some lines that the other has stored meanwhile."""
    log = [at(number / 100, b"%d" % (number // 3)) for number in range(600)]
    barrier = threading.Barrier(2)

    def supervise(step: int) -> None:
        writer = ArchiveWriter(archive)
        barrier.wait()
        for stop in range(step, len(log), step):
            append(writer, log[:stop])
        append(writer, log)

    threads = [threading.Thread(target=supervise, args=(step,)) for step in (13, 29)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stored(archive) == log


def test_a_lost_acknowledgement_stores_nothing_twice(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = files.create

    def lost(url: str, data: bytes) -> None:
        create(url, data)
        raise FileExistsError(url)

    writer = ArchiveWriter(archive)
    append(writer, [at(0)])
    monkeypatch.setattr(files, "create", lost)
    append(writer, [at(0), at(1), at(1)])
    monkeypatch.undo()
    append(writer, [at(0), at(1), at(1), at(2)])
    assert stored(archive) == [at(0), at(1), at(1), at(2)]


def test_lines_that_could_not_be_stored_are_stored_later(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(url: str, data: bytes) -> None:
        raise OSError("no space left on device")

    writer = ArchiveWriter(archive)
    with monkeypatch.context() as patch:
        patch.setattr(files, "create", full)
        with pytest.raises(OSError, match="no space"):
            append(writer, [at(0)])
    append(writer, [at(0), at(1)])
    assert stored(archive) == [at(0), at(1)]


def test_the_first_end_is_kept(archive: Archive) -> None:
    assert archive.end() is None
    archive.write_end(AttemptEnd(exit_code=137, reason="OOMKilled"))
    archive.write_end(AttemptEnd(complete=False))
    end = archive.end()
    assert end is not None
    assert (end.complete, end.exit_code, end.reason) == (True, 137, "OOMKilled")
    files.write(f"{archive.prefix}/end.json", b"{torn")
    assert archive.end() == AttemptEnd(complete=False)
