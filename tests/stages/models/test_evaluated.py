"""The two models of an evaluation, opened from the folders that a train stage writes."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import stage_specs
from tests.chat_model import write_chat_model
from tests.stages.test_evaluate import record
from tests.training.params import flat_params
from tuneloop.artifacts import records
from tuneloop.artifacts.records import OutputFile
from tuneloop.errors import DataError, Transient
from tuneloop.specs.stages import EvalStage, ModelRef
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.answering.question import Question
from tuneloop.stages.answering.saved import SavedBatches
from tuneloop.stages.eval_passes import Asker, Pass
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.models.evaluated import EvaluatedModel, open_models
from tuneloop.training.models.random_weights import build_random_model

BASE_SEED, TUNED_SEED = 1, 2


def trained_stage(folder: Path, names: tuple[str, ...], ref: ModelRef | None) -> Stage:
    """An eval stage whose train stage wrote models with these names."""
    artifacts = folder / "artifacts"
    spec = stage_specs()["eval"]
    assert isinstance(spec, EvalStage)
    execution = spec.execution.model_copy(update={"artifacts": str(artifacts)})
    spec = spec.model_copy(update={"execution": execution, "model": ref})
    started = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
    stage = Stage(spec, started_at=started, attempt="a")
    outputs = []
    for name, seed in zip(names, (TUNED_SEED, BASE_SEED), strict=False):
        place = artifacts / "training_runs" / spec.run_id / "train" / "attempts" / "a" / name
        write_chat_model(place, seed)
        for path in sorted(place.iterdir()):
            data = path.read_bytes()
            outputs.append(
                OutputFile(
                    name=f"{name}/{path.name}",
                    path=path.relative_to(artifacts).as_posix(),
                    size_bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                )
            )
    records.publish(record(stage, "train", tuple(outputs)), stage.artifacts)
    return stage


@pytest.mark.parametrize("stored", [False, True])
def test_base_and_tuned_model_are_the_ones_that_were_written(tmp_path: Path, stored: bool) -> None:
    ref = None
    if stored:
        digest = write_chat_model(tmp_path / "base", BASE_SEED)
        ref = ModelRef(name="base", folder=str(tmp_path / "base"), digest=digest)
    stage = trained_stage(tmp_path, ("model",) if stored else ("model", "base"), ref)
    assert isinstance(stage.spec, EvalStage)
    baselines = {} if ref is None else {"other": ref}
    models = open_models(stage.spec.model_copy(update={"baselines": baselines}), stage)
    assert [*models] == ["base", *baselines, "tuned"]
    base, tuned = models["base"], models["tuned"]
    assert base.architecture == tuned.architecture
    assert base.chat_format.digest == tuned.chat_format.digest
    for model, seed in ((base, BASE_SEED), (tuned, TUNED_SEED)):
        found, expected = model.load(), build_random_model(model.architecture, seed)
        assert all(
            (array == flat_params(expected)[name]).all()
            for name, array in flat_params(found).items()
        )


def test_one_model_at_a_time_is_loaded_and_only_if_it_is_asked(tmp_path: Path) -> None:
    stage = trained_stage(tmp_path, ("model", "base"), None)
    assert isinstance(stage.spec, EvalStage)
    events: list[str] = []

    def watched(name: str, model: EvaluatedModel) -> EvaluatedModel:
        def load() -> Any:
            events.append(name)
            return model.load()

        return replace(model, load=load)

    base, tuned = open_models(stage.spec, stage).values()
    questions = tuple(Question(text) for text in ("Say a", "Say b", "Say c"))
    passes = [Pass("x", "base", questions, 4), Pass("y", "tuned", questions, 4)]

    def check_stop() -> None:
        events.append("batch")
        if "stop" in events and events.count("batch") == 4:
            raise Transient("stopped")

    asker = Asker(
        {"base": watched("base", base), "tuned": watched("tuned", tuned)},
        system_instruction=None,
        batch_size=2,
        check_stop=check_stop,
        progress=lambda step, total, left: events.append(f"{step}/{total}"),
    )
    whole = asker.ask(passes, range)
    everything = [
        *("0/4", "base", "batch", "1/4", "batch", "2/4"),
        *("tuned", "batch", "3/4", "batch", "4/4"),
    ]
    assert events == everything
    assert whole["x"].keys() == whole["y"].keys() == {0, 1, 2}
    events.clear()
    # The third of three processes has one batch, of the tuned model.
    share = asker.ask(passes, lambda total: range(total - 1, total))
    assert [event for event in events if event in ("base", "tuned")] == ["tuned"]
    assert share["x"] == {}
    assert share["y"].items() <= whole["y"].items() and share["y"]

    events.clear()
    # Answers that are known are not generated, and no model is loaded for them.
    assert asker.ask(passes, range, {"x": whole["x"]}) == whole
    assert "base" not in events and events[0] == "2/4"
    known = {"y": {number: whole["y"][number] for number in (0, 2)}}
    assert asker.ask(passes, range, known) == whole

    # Models that stay are loaded once.
    asker.stays = frozenset({"tuned"})
    assert [asker.ask(passes, range) for _ in range(2)] == [whole, whole]
    asker.forget_models()
    assert asker.ask(passes, range) == whole
    loads = [event for event in events if event in ("base", "tuned")]
    assert loads[-5:] == ["base", "tuned", "base", "base", "tuned"]
    asker.stays = frozenset()
    asker.forget_models()

    def attempt(*events_before: str) -> dict[str, dict[int, Generation]]:
        events[:] = events_before
        stage.attempt += "a"
        asker.saved = SavedBatches(stage, seconds_per_file=0)
        return asker.ask(passes, range)

    with pytest.raises(Transient):
        attempt("stop")
    (first, second, _) = sorted(tmp_path.rglob("answers/all/*.json"))
    assert attempt() == whole
    assert events == ["3/4", "tuned", "batch", "4/4"]
    second.write_bytes(second.read_bytes().replace(b"fingerprint", b"fingerPrint"))
    first.unlink()
    assert attempt() == whole
    assert events == ["2/4", "base", "batch", "3/4", "batch", "4/4"]
    assert not second.exists()
    assert attempt() == whole
    assert events == ["4/4"]


def test_weights_that_were_changed_are_refused_before_anyone_is_asked(tmp_path: Path) -> None:
    stage = trained_stage(tmp_path, ("model", "base"), None)
    assert isinstance(stage.spec, EvalStage)
    base = open_models(stage.spec, stage)["base"]
    (weights,) = tmp_path.rglob("base/*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DataError, match="sha256"):
        base.load()
