"""The same promises on GCS and S3, over HTTP that fails now and then."""

from __future__ import annotations

import os
from collections.abc import Iterator

import aiohttp
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    IncompleteReadError,
    NoCredentialsError,
)
from fsspec.exceptions import FSTimeoutError
from gcsfs.retry import HttpError
from google.auth.exceptions import DefaultCredentialsError

from tests.objectstore import STORES, ObjectStore, used_by_this_process
from tuneloop.errors import (
    DataError,
    PermissionDenied,
    Transient,
    TuneloopError,
    Unavailable,
)
from tuneloop.storage import files
from tuneloop.storage.errors import sentences

# gcsfs and s3fs leave connections open, and aiohttp does not like how gcsfs sends large bodies.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module", params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with used_by_this_process(request.param) as found:
        yield found


def test_what_is_written_is_read_and_listed(store: ObjectStore) -> None:
    url = store.url("listed", "a", "b.txt")
    assert (files.exists(url), files.size_bytes(url)) == (False, None)
    assert files.list_files(store.url("listed")) == []
    assert files.list_folders(store.url("listed")) == []
    files.write(url, b"one")
    files.write(url, "drei £ 🟡".encode())
    assert files.read(url) == "drei £ 🟡".encode()
    files.write(store.url("listed", "ab", "c.txt"), b"")
    assert files.list_files(store.url("listed", "a")) == [url]
    assert files.list_folders(store.url("listed")) == ["a", "ab"]
    assert files.list_names(store.url("listed")) == []
    assert files.list_names(store.url("listed", "ab")) == ["c.txt"]
    assert files.size_bytes(store.url("listed", "ab", "c.txt")) == 0
    assert files.size_bytes(store.url("listed", "a")) is None
    files.delete_tree(store.url("listed", "a"))
    assert files.list_files(store.url("listed")) == [store.url("listed", "ab", "c.txt")]
    files.delete_tree(store.url("listed", "never-was"))
    with pytest.raises(FileNotFoundError):
        files.read(url)
    with pytest.raises(FileNotFoundError):
        next(files.iter_blocks(url))


def test_what_another_process_publishes_is_seen(store: ObjectStore) -> None:
    url = store.url("seen", "record.json")
    assert files.list_files(store.url("seen")) == []
    assert not files.exists(url)
    store.bucket.put("seen/record.json", b"{}")
    assert files.exists(url)
    assert files.list_files(store.url("seen")) == [url]


def test_one_creator_wins_and_finds_its_own_again(store: ObjectStore) -> None:
    url = store.url("created", "record.json")
    assert files.publish(url, b"first")
    assert files.publish(url, b"first")
    assert not files.publish(url, b"second")
    with pytest.raises(FileExistsError):
        files.create(url, b"first")
    assert store.bucket.get("created/record.json") == b"first"


BIG = os.urandom(20 << 20)
"""Several parts of an upload, and of a download."""


def test_streams_are_whole_whatever_fails_on_the_way(store: ObjectStore) -> None:
    with store.proxy.failing(0.2, seed=2):
        for number in range(3):
            url = store.url("streams", str(number))
            with files.Writer(url) as writer:
                writer.write(BIG)
                written = writer.close()
            found = b"".join(files.iter_verified(url, written.size_bytes, written.sha256))
            assert found == BIG == store.bucket.get(f"streams/{number}")
            assert files.read_range(url, 7, 1 << 16) == BIG[7 : 1 << 16]
    assert store.proxy.faults.total() > 2


def test_small_calls_survive_faults(store: ObjectStore) -> None:
    with store.proxy.failing(0.2, seed=1):
        for number in range(5):
            url = store.url("small", str(number))
            assert files.publish(url, b"x%d" % number)
            assert files.read(url) == b"x%d" % number
            assert files.exists(url)
            assert not files.exists(url + "-missing")
        assert len(files.list_files(store.url("small"))) == 5
        files.delete_tree(store.url("small"))
    assert store.proxy.faults.total() > 2
    assert not [name for name in store.bucket.names() if name.startswith("small/")]


def test_a_file_that_is_given_up_is_not_there(store: ObjectStore) -> None:
    with (
        pytest.raises(RuntimeError, match="given up"),
        files.Writer(store.url("torn", "file")) as writer,
    ):
        writer.write(BIG)
        raise RuntimeError("given up")
    assert not [name for name in store.bucket.names() if name.startswith("torn/")]


def behind(error: BaseException) -> OSError:
    """As s3fs raises: its own error, and the server's answer behind it."""
    found = OSError(121, "busy")
    found.__cause__ = error
    return found


def answer(status: int) -> ClientError:
    said = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(said, "PutObject")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HttpError({"code": 429, "message": "slow\ndown"}), Transient),
        (HttpError({"code": 401, "message": "who?"}), PermissionDenied),
        (HttpError({"code": 412, "message": "odd"}), Unavailable),
        (OSError("Forbidden: bucket/x\nno rights"), PermissionDenied),
        (ValueError("Bad Request: bucket/x\ninvalid name"), Unavailable),
        (aiohttp.ServerDisconnectedError(), Transient),
        (aiohttp.ClientPayloadError("cut short"), Transient),
        (FSTimeoutError(), Transient),
        (behind(answer(503)), Transient),
        (behind(answer(500)), Transient),
        (behind(answer(405)), Unavailable),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), Transient),
        (ConnectionClosedError(endpoint_url="http://x"), Transient),
        (NoCredentialsError(), PermissionDenied),
        (DefaultCredentialsError("none found"), PermissionDenied),
    ],
)
def test_what_stores_raise_is_a_sentence(error: Exception, kind: type[TuneloopError]) -> None:
    with (
        pytest.raises(kind, match=r"^gs://b/x: cannot be read: [^\n]+; [^\n]+$"),
        sentences("gs://b/x", "read"),
    ):
        raise error


def test_bugs_stay_bugs() -> None:
    with pytest.raises(ValueError, match="ours"), sentences("gs://b/x", "read"):
        raise ValueError("ours")


def test_no_bucket_and_damage_are_sentences(store: ObjectStore) -> None:
    url = store.url("damage", "file")
    store.bucket.put("damage/file", b"other")
    with pytest.raises(DataError, match="holds 5 bytes, expected 6"):
        files.read_verified(url, expected_bytes=6, expected_sha256="0" * 64)
    nowhere = url.replace("://tests/", "://no-such-bucket/")
    with pytest.raises((Unavailable, PermissionDenied), match="cannot be written"):
        files.write(nowhere, b"x")
    assert not files.exists(nowhere)
