from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.objectstore import ObjectStore, s3
from tuneloop.errors import SpecError
from tuneloop.storage import files
from tuneloop.training.sft.background import BackgroundFile


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_the_newest_content_is_stored(kind: str, tmp_path: Path) -> None:
    url = f"{tmp_path}/a/b" if kind == "file" else f"memory://{uuid.uuid4().hex}/b"
    file = BackgroundFile(url)
    for number in range(200):
        file.write(str(number).encode() * 1000)
    file.close(seconds=30)
    assert files.read(url) == b"199" * 1000


def test_without_content_there_is_no_file(tmp_path: Path) -> None:
    before = threading.active_count()
    BackgroundFile(str(tmp_path / "file")).close(seconds=30)
    assert not list(tmp_path.iterdir())
    assert threading.active_count() == before


def test_a_refusal_is_raised_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where a folder is needed")
    file = BackgroundFile(str(tmp_path / "file" / "metrics.jsonl"))
    file.write(b"1")
    with pytest.raises(SpecError, match=r"metrics\.jsonl: cannot be written"):
        file.close(seconds=30)


@pytest.fixture(scope="module")
def bucket() -> Iterator[ObjectStore]:
    with s3() as found:
        yield found


def test_a_store_that_is_away_holds_up_nobody(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    file = BackgroundFile(bucket.url("metrics.jsonl"))
    since = time.monotonic()
    with bucket.proxy.failing(1.0):
        file.write(b"1")
        file.write(b"2")
        file.close(seconds=0.5)
    assert time.monotonic() - since < 5
    assert "metrics.jsonl is not written: the storage does not answer" in caplog.text
