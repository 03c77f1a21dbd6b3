"""The probe of `check --server`: on GCS and S3 emulators, in a folder, and on broken stores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.objectstore import STORES, ObjectStore, forget_clients
from tests.postgres import free_port
from tuneloop.errors import TuneloopError, Unavailable
from tuneloop.storage.probe import try_create_only

# gcsfs and s3fs leave connections open, and aiohttp does not like how gcsfs sends large bodies.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module", params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with STORES[request.param]() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf, found.environment)
        yield found


@pytest.mark.parametrize("parts", [(), ("new", "läufe 🧪")])
def test_a_store_that_creates_once_passes_and_keeps_nothing(
    store: ObjectStore, parts: tuple[str, ...]
) -> None:
    assert try_create_only(store.url(*parts)) is None
    assert store.bucket.names() == []


def test_a_store_that_ignores_preconditions_is_refused(store: ObjectStore) -> None:
    store.proxy.ignores_preconditions = True
    try:
        with pytest.raises(Unavailable, match="a second creation of the same object replaced"):
            try_create_only(store.url("a"))
    finally:
        store.proxy.ignores_preconditions = False
    assert store.bucket.names() == []


def test_a_store_that_fails_now_and_then_passes(store: ObjectStore) -> None:
    with store.proxy.failing(0.05, seed=3):
        for _ in range(5):
            assert try_create_only(store.url("a")) is None
    assert store.bucket.names() == []


def test_a_bucket_that_does_not_exist_is_named(store: ObjectStore) -> None:
    url = store.url("a").replace("tests", "absent")
    with pytest.raises(TuneloopError, match="absent"):
        try_create_only(url)


@pytest.mark.parametrize(
    "protocol",
    # gcsfs tries for half a minute itself.
    ["s3", pytest.param("gs", marks=pytest.mark.slow)],
)
def test_a_store_that_is_not_there_is_given_up_soon(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    variable = {"gs": "STORAGE_EMULATOR_HOST", "s3": "AWS_ENDPOINT_URL"}[protocol]
    monkeypatch.setenv(variable, nowhere)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    forget_clients(protocol)
    start = time.monotonic()
    with pytest.raises(TuneloopError, match="cannot be written"):
        try_create_only(f"{protocol}://bucket/a")
    assert time.monotonic() - start < 60


def test_folders(tmp_path: Path) -> None:
    assert try_create_only(str(tmp_path / "new")) is None
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(TuneloopError, match="cannot be written"):
        try_create_only(str(tmp_path / "file"))
