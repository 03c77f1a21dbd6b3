from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.finished_run import answered
from tests.model_manifests import make_manifest
from tests.models.fake_hub import FakeHub, running_hub
from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.delta_report import Context, dump_report
from tuneloop.artifacts.model_manifest import (
    MANIFEST,
    ModelFile,
    dump_model_manifest,
    load_model_manifest,
)
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.errors import DataError, InputMissing, UsageError
from tuneloop.evaluation.report.build import build_report
from tuneloop.models.hand_on import export_model
from tuneloop.storage import files, paths
from tuneloop.training.models.publish.card import ModelCard, render_card

RUN = "letters-7c1aa298"
WEIGHTS = b"weights" * 1000


def card() -> bytes:
    facts: dict[str, Any] = {"lineage": {"run": RUN}, "data": {"examples": 3}}
    return render_card(
        ModelCard(
            name=RUN,
            family="llama3",
            parameters=6464,
            dtype="bfloat16",
            base="small-llama",
            licence="apache-2.0",
            random_weights=False,
            training={"method": "lora"},
            **facts,
        )
    )


def publish(artifacts: str, stage: str, contents: dict[str, bytes]) -> Record:
    outputs = []
    for name, data in contents.items():
        path = f"training_runs/{RUN}/{stage}/attempts/1/{name}"
        files.write(paths.join(artifacts, path), data)
        digest = hashlib.sha256(data).hexdigest()
        outputs.append(OutputFile(name=name, path=path, size_bytes=len(data), sha256=digest))
    record = Record(
        run_id=RUN,
        stage=stage,
        fingerprint=hashlib.sha256(stage.encode()).hexdigest(),
        attempt="1",
        inputs={},
        outputs=tuple(outputs),
        counts={},
        started_at="2026-11-27T00:00:00+00:00",
        seconds=1.0,
        provenance={},
    )
    return records.publish(record, artifacts)


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    """Publish a train stage with a model and an adapter."""
    place, text = str(tmp_path / "artifacts"), card()
    contents = {"README.md": text, "config.json": b"{}", "model.safetensors": WEIGHTS}
    described = tuple(
        ModelFile(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in contents.items()
    )
    manifest = make_manifest(name=RUN, files=described)
    outputs = {f"model/{name}": data for name, data in contents.items()}
    outputs[f"model/{MANIFEST}"] = dump_model_manifest(manifest)
    outputs["adapter/adapter_config.json"] = b'{"r": 4}'
    outputs["adapter/adapter_model.safetensors"] = b"lora"
    publish(place, "train", {**outputs, "metrics.jsonl": b"{}\n"})
    return place


def publish_evaluation(artifacts: str) -> None:
    header = {"eval set": "letters_v1.jsonl", "scorer": "exact_match"}
    report = build_report(answered(), Context(header=header))
    publish(artifacts, "eval", {"delta_report.json": dump_report(report)})


def test_all_files_of_the_model_are_exported(artifacts: str, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    exported = export_model(
        RUN, str(tmp_path / "out"), artifacts, progress=lambda *call: calls.append(call)
    )
    names = ["README.md", "config.json", "manifest.json", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert [file.name for file in exported.files] == names
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == WEIGHTS
    assert calls[-1][0] == calls[-1][1] == sum(file.size_bytes for file in exported.files)
    assert not exported.has_evaluation
    assert "Not evaluated yet" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_has_the_figures_and_the_manifest_its_digest(
    artifacts: str, tmp_path: Path
) -> None:
    publish_evaluation(artifacts)
    assert export_model(RUN, str(tmp_path / "out"), artifacts).has_evaluation
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| all | 36 | 5.6% | 72.2% |" in text
    assert "Eval set letters_v1.jsonl, scorer exact_match" in text
    manifest = load_model_manifest(str(tmp_path / "out"))
    assert manifest.source == f"tuneloop run {RUN}"
    for file in manifest.files:
        data = (tmp_path / "out" / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size_bytes, file.sha256)


def test_the_adapter_is_exported_alone(artifacts: str, tmp_path: Path) -> None:
    export_model(RUN, str(tmp_path / "out"), artifacts, adapter=True)
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert json.loads(found.pop("adapter_config.json")) == {"r": 4}
    assert found == {"adapter_model.safetensors": b"lora"}


def test_exporting_again_changes_nothing_and_other_files_are_kept(
    artifacts: str, tmp_path: Path
) -> None:
    export_model(RUN, str(tmp_path / "out"), artifacts)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    export_model(RUN, str(tmp_path / "out"), artifacts)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_another_model_is_not_overwritten_unless_asked(artifacts: str, tmp_path: Path) -> None:
    other = tmp_path / "out" / "model.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"x" * len(WEIGHTS))
    with pytest.raises(UsageError, match="is there already with other content"):
        export_model(RUN, str(tmp_path / "out"), artifacts)
    assert [path.name for path in other.parent.iterdir()] == ["model.safetensors"]
    export_model(RUN, str(tmp_path / "out"), artifacts, overwrite=True)
    assert other.read_bytes() == WEIGHTS


def test_a_changed_output_is_refused_and_not_left_behind(artifacts: str, tmp_path: Path) -> None:
    (url,) = (u for u in files.list_files(artifacts) if u.endswith("model/model.safetensors"))
    Path(url.removeprefix("file://")).write_bytes(b"x" * len(WEIGHTS))
    with pytest.raises(DataError, match="was changed after it was recorded"):
        export_model(RUN, str(tmp_path / "out"), artifacts)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not names & {"model.safetensors", MANIFEST}


def test_there_must_be_something_to_export(artifacts: str, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="expected the record of a finished train stage"):
        export_model("none-00000000", str(tmp_path / "out"), artifacts)
    publish(str(tmp_path / "old"), "train", {"weights.safetensors": b"w"})
    with pytest.raises(UsageError, match="its train stage wrote no model/ files"):
        export_model(RUN, str(tmp_path / "out"), str(tmp_path / "old"))
    with pytest.raises(UsageError, match=r"has no adapter, expected a run with train.method lora"):
        export_model(RUN, str(tmp_path / "out"), str(tmp_path / "old"), adapter=True)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub(monkeypatch) as found:
        yield found


def test_a_model_goes_to_the_hub_in_one_commit(artifacts: str, hub: FakeHub) -> None:
    exported = export_model(RUN, "hf://org/tiny", artifacts)
    assert exported.place.startswith("hf://org/tiny@")
    assert hub.files["model.safetensors"] == WEIGHTS
    assert set(hub.files) == {"README.md", "config.json", "manifest.json", "model.safetensors"}
    assert sum("/commit/" in request for request in hub.requests) == 1


def test_a_model_goes_to_a_bucket(artifacts: str) -> None:
    export_model(RUN, "memory://exported/model", artifacts)
    assert files.read("memory://exported/model/model.safetensors") == WEIGHTS
