"""A dataset read from a store over HTTP equals the dataset in the artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.builders import make_tiny_run, publish_dataset
from tests.objectstore import FaultyProxy
from tests.stages.test_export import MIXED, export, record_of
from tuneloop.datasets.read import load_manifest
from tuneloop.datasets.source import DatasetSource
from tuneloop.errors import DataError, Unavailable
from tuneloop.runs import store_app
from tuneloop.specs.stages import ExportStage
from tuneloop.storage import files, paths


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """Artifacts with a dataset of several shards."""
    artifacts = str(tmp_path / "stored")
    publish_dataset(artifacts, MIXED, shard_rows=64, dataset_name="own", limit=10_000)
    assert len(load_manifest(artifacts, "own-v1").shards) > 3
    return artifacts


@pytest.fixture
def proxy(stored: str, tmp_path: Path) -> Iterator[FaultyProxy]:
    with store_app.running(f"sqlite:///{tmp_path / 'store.db'}", stored) as url:
        proxy = FaultyProxy("gs", url)
        with proxy.running():
            yield proxy


def export_stage(folder: Path, datasets_url: str) -> ExportStage:
    folder.mkdir()
    run = make_tiny_run(folder)
    run.change(dataset="own-v1", export__shard_examples=70, execution__datasets_url=datasets_url)
    stage = run.plan().stages[0]
    assert isinstance(stage, ExportStage)
    return stage


def test_the_export_is_the_same_from_files_and_over_http(
    stored: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    plain, http = export_stage(tmp_path / "a", stored), export_stage(tmp_path / "b", proxy.url)
    assert plain.fingerprint == http.fingerprint
    assert export(plain, tmp_path / "a") == 0
    with proxy.failing(0.3, seed=3):
        for index in range(3):
            assert export(http, tmp_path / "b", index, 3) == 0
    assert proxy.faults.total() > 2
    assert record_of(plain).content() == record_of(http).content()
    assert record_of(http).counts["traces"] == len(MIXED)


def test_ranges_and_refusals_of_the_route(stored: str, proxy: FaultyProxy) -> None:
    manifest = load_manifest(stored, "own-v1")
    shard = manifest.shards[1]
    whole = Path(stored, "datasets", "own-v1", shard.path).read_bytes()
    url = f"{proxy.target}/api/datasets/own-v1/shards/{shard.name}"
    found = httpx.get(url)
    assert (found.status_code, found.content) == (200, whole)
    assert found.headers["content-length"] == str(len(whole))
    found = httpx.get(url, headers={"Range": "bytes=1000-"})
    assert (found.status_code, found.content) == (206, whole[1000:])
    assert found.headers["content-range"] == f"bytes 1000-{len(whole) - 1}/{len(whole)}"
    assert httpx.get(url, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    assert httpx.get(url, headers={"Range": "bytes=0-5"}).content == whole
    assert httpx.get(url + "x").status_code == 404
    assert httpx.get(url.replace("own-v1", "none")).status_code == 404


def test_damage_and_absence_are_sentences(stored: str, proxy: FaultyProxy) -> None:
    with DatasetSource(proxy.url) as source:
        with pytest.raises(
            DataError, match=r"refused the request with status 404: Dataset not found: none$"
        ):
            source.load_manifest("none")
        manifest = source.load_manifest("own-v1")
        assert manifest == load_manifest(stored, "own-v1")
        path = paths.join(stored, "datasets", "own-v1", manifest.shards[2].path)
        files.write(path, files.read(path)[:-40] + b"x" * 40)
        with pytest.raises((DataError, Unavailable), match="own-v1"):
            list(source.iter_row_range(manifest, 0, manifest.trace_count))
    with (
        DatasetSource("http://127.0.0.1:9") as nobody,
        pytest.raises(Unavailable, match="does not answer"),
    ):
        nobody.load_manifest("own-v1")
