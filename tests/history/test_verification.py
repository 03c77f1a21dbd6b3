"""`tuneloop verify` names every damaged file of a finished and of an unfinished run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests.builders import Invoke, letter_trace, publish_dataset, stage_specs
from tests.history import trees
from tests.history.corruptions import KINDS, corrupt
from tuneloop import jsonl
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.progress import Progress, dump_progress
from tuneloop.artifacts.runs.run_manifest import DatasetOfRun
from tuneloop.datasets.read import load_manifest
from tuneloop.errors import InputMissing
from tuneloop.history.index import update_index
from tuneloop.history.verification.run import Verification, verify_run
from tuneloop.runs.logs.local import LocalOutput
from tuneloop.specs.stages import dump_stage_spec
from tuneloop.stages.pipelines import TRAINING_STAGES
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import seal_lines, sealed
from tuneloop.training.data.encoding import Block
from tuneloop.training.data.token_file import write_token_file
from tuneloop.training.sft.checkpoint.claim import Claim
from tuneloop.training.sft.checkpoint.manifest import (
    CheckpointFile,
    CheckpointManifest,
    Piece,
    StoredArray,
    dump_manifest,
)

RUN = "letters-7c1aa298"


def write(artifacts: str, stages: int) -> str:
    """Write a run with the records of its first stages and all other files of a local run."""
    key = publish_dataset(artifacts, [letter_trace(number) for number in range(30)], shard_rows=12)
    dataset = load_manifest(artifacts, key)
    named = DatasetOfRun(key=key, build_id=dataset.build_id, trace_count=dataset.trace_count)
    made = trees.write_manifest(artifacts, RUN)
    made = made.model_copy(update={"dataset": named})
    files.write(layout.run_manifest_url(artifacts, RUN), jsonl.dump_line(sealed(made.model_dump())))
    for stage in TRAINING_STAGES[:stages]:
        trees.finish(artifacts, RUN, stage, made.stages[stage])
    for stage in TRAINING_STAGES[: stages + 1]:
        write_side_files(
            artifacts, stage, made.stages[stage], has_ended=stage in TRAINING_STAGES[:stages]
        )
    write_training(artifacts)
    update_index(artifacts, RUN)
    return artifacts


def write_side_files(artifacts: str, stage: str, mark: str, *, has_ended: bool) -> None:
    prefix = layout.stage_prefix(artifacts, RUN, stage)
    spec = stage_specs()[stage].model_copy(update={"run_id": RUN, "fingerprint": mark})
    value = sealed(json.loads(dump_stage_spec(spec)))
    files.write(paths.join(prefix, "spec.json"), jsonl.dump_line(value))
    files.write(paths.join(prefix, "lock"), b"")
    log = f"stage {stage} of {RUN}\npublished\n".encode()
    files.write(paths.join(prefix, "log.txt"), log)
    beat = Progress(
        stage=stage, updated_at=trees.STARTED, log_sha256=hashlib.sha256(log).hexdigest()
    )
    files.write(paths.join(prefix, "progress.json"), dump_progress(beat))
    output = LocalOutput(prefix, Path(artifacts))
    output.path.write_bytes(log)
    if has_ended:
        output.end(0)


def write_training(artifacts: str) -> None:
    """Write encoded examples, two checkpoints, the metrics and the claim of a training."""
    block = Block(
        np.arange(40, dtype=np.int32),
        np.array([20, 20]),
        np.array([5, 6], np.int32),
        ("a" * 36, "b" * 36),
    )
    files.write(paths.join(layout.token_folder(artifacts, "e" * 64), "lock"), b"")
    write_token_file(layout.token_folder(artifacts, "e" * 64), [block], attempt=trees.ATTEMPT)
    files.write(
        f"{artifacts}/training_runs/{RUN}/train/attempts/{trees.ATTEMPT}/base/config.json", b"{}"
    )
    resume = f"{artifacts}/training_runs/{RUN}/train/resume"
    rows = ({"step": step, "loss": 1 / step, "validation_loss": None} for step in range(1, 5))
    files.write(f"{resume}/metrics.jsonl", b"".join(map(jsonl.dump_line, seal_lines(rows))))
    Claim.take(resume, "attempt-1")
    for step in (2, 4):
        piece = Piece(array="model/w", start=(0,), shape=(64,))
        data = safetensors_numpy.save({piece.tensor: np.full(64, step, np.float32)})
        name = "4e2ae27c/00000-00000.safetensors"
        files.write(f"{resume}/checkpoints/{step}/{name}", data)
        file = CheckpointFile(
            name=name,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            pieces=(piece,),
        )
        arrays = {"model/w": StoredArray(dtype="float32", shape=(64,))}
        manifest = CheckpointManifest(step=step, arrays=arrays, files=(file,))
        files.write(f"{resume}/checkpoints/{step}/manifest.json", dump_manifest(manifest))


def names_of(found: Verification) -> set[str]:
    return {problem.path for problem in found.problems}


@pytest.mark.parametrize("stages", [0, 1, 4])
def test_an_intact_run_has_no_problem(stages: int, tmp_path: Path) -> None:
    found = verify_run(write(str(tmp_path), stages), RUN)
    assert found.problems == ()
    assert found.checked > 20
    # No record or digest tells about the rest of an attempt that was killed.
    assert all("/base/" in path or "output.txt" in path for path in found.unchecked)


@pytest.mark.parametrize("stages", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_damaged_file_is_named(kind: str, stages: int, tmp_path: Path) -> None:
    """Every file of the run, of its dataset, of its tokens and of the cache, once."""
    root = Path(write(str(tmp_path / "intact"), stages))
    intact = verify_run(str(root), RUN)
    names = sorted(trees.snapshot(str(root)) - set(intact.unchecked))
    draw = random.Random(f"{kind}-{stages}")
    for path in draw.sample(names, 20):
        before = {name: (root / name).read_bytes() for name in names}
        damaged = corrupt(root, path, kind, draw, names)
        found = verify_run(str(root), RUN)
        # What a manifest describes is not known if the manifest was swapped with it.
        missed = damaged - names_of(found)
        assert len(missed) < len(damaged), (kind, damaged, found.problems)
        assert not missed or any("manifest" in name or "record" in name for name in damaged)
        for name in damaged:
            (root / name).unlink(missing_ok=True)
            (root / name).write_bytes(before[name])
    assert verify_run(str(root), RUN) == intact


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "stages",
            lambda v: v.update(record="training_runs/x/export/record.json"),
            "expected a record of|is missing",
        ),
        ("run_index", lambda v: v.update(dataset="other-v1"), "its seal|not what the records"),
        ("progress.json", lambda v: v.update(step=7), "its seal is not the digest"),
        ("run_manifest.json", lambda v: v.pop("seal"), "has no seal, so a change cannot be found"),
        ("run_manifest.json", lambda v: v.update(seed=2), "its seal is not the digest"),
    ],
)
def test_a_changed_value_is_named(
    name: str, change: Callable[[dict[str, object]], object], words: str, tmp_path: Path
) -> None:
    root = Path(write(str(tmp_path), 4))
    path = next(each for each in sorted(trees.snapshot(str(root))) if name in each)
    value = json.loads((root / path).read_bytes())
    change(value)
    (root / path).write_text(json.dumps(value))
    found = verify_run(str(root), RUN)
    assert names_of(found) == {path}
    assert any(part in found.problems[0].text for part in words.split("|"))


def test_a_dataset_of_other_traces_is_named(tmp_path: Path) -> None:
    root = write(str(tmp_path / "a"), 4)
    other = str(tmp_path / "b")
    publish_dataset(other, [letter_trace(number) for number in range(31)], shard_rows=12)
    for name in ("a", "b"):
        Path(tmp_path, name, "datasets").rename(tmp_path / f"{name}-datasets")
    (tmp_path / "b-datasets").rename(tmp_path / "a" / "datasets")
    found = verify_run(root, RUN)
    assert names_of(found) == {"datasets/letters-v1/manifest.json"}
    assert "the dataset was built again with other traces" in found.problems[0].text


def test_files_of_an_older_version_have_no_seals(tmp_path: Path) -> None:
    root = Path(write(str(tmp_path), 4))
    for name in trees.snapshot(str(root)):
        if name.endswith(".json") and "tokens" not in name:
            with contextlib.suppress(ValueError):
                value = json.loads((root / name).read_bytes())
                value.pop("seal", None)
                (root / name).write_text(json.dumps(value))
    manifest = next(root.glob("tokens/*/manifest.json"))
    value = json.loads(manifest.read_bytes())
    del value["seal"]
    manifest.write_text(json.dumps(value))
    assert verify_run(str(root), RUN).problems == ()


def test_kept_answers_that_the_evaluation_names_are_verified(tmp_path: Path) -> None:
    root, key = str(tmp_path), "a" * 64
    made = trees.write_run(root, RUN, ["export", "train"])
    inputs = {f"{records.KEPT_INPUT}base, sums": key}
    trees.finish(root, RUN, "eval", made.stages["eval"], inputs=inputs)

    def found() -> list[str]:
        return [each.text for each in verify_run(root, RUN).problems if key in each.path]

    assert found() == []  # a cache may be gone
    url = layout.eval_answers_url(root, key)
    data = b"".join(map(jsonl.dump_line, seal_lines([{"key": key}, {"item": 0, "text": "Paris"}])))
    files.write(url, data)
    assert found() == []
    files.write(url, data.replace(b"Paris", b"Rome!"))
    assert found() == [
        f"{url}: line 2 is not as it was written; delete the file, and later evaluations ask the"
        " base model again"
    ]
    files.write(url, b"")
    assert "its first line is not as it was written" in found()[0]


def test_the_verb(tmp_path: Path, tuneloop: Invoke) -> None:
    root = write(str(tmp_path), 4)
    code, out, err = tuneloop("verify", RUN, "--artifacts", root)
    assert (code, err) == (0, "")
    assert "are as recorded; 1 others belong to no result" in out
    file = f"training_runs/{RUN}/eval/attempts/{trees.ATTEMPT}/delta_report.json"
    Path(root, file).write_bytes(b"{}")
    code, out, err = tuneloop("verify", RUN, "--artifacts", root)
    assert code == 12
    assert f"error: {root}/{file}: holds 2 bytes, expected" in err
    assert "1 damaged files, expected none" in err
    code, out, _ = tuneloop("verify", RUN, "--artifacts", root, "--json")
    assert [each["path"] for each in json.loads(out)["problems"]] == [file]
    assert tuneloop("verify", "none-1", "--artifacts", root)[0] == 12
    with pytest.raises(InputMissing, match="expected a run; check the run id"):
        verify_run(root, "none-1")


def test_the_spec_of_another_version_is_no_damage(tmp_path: Path) -> None:
    artifacts = write(str(tmp_path), 4)
    file = Path(artifacts) / "training_runs" / RUN / "train" / "spec.json"
    spec = json.loads(file.read_text())
    del spec["seal"]
    spec["options"]["clip_norm"] = spec["options"].pop("steps")
    spec["a_key_of_the_future"] = 1
    file.write_text(json.dumps(sealed(spec)))
    assert verify_run(artifacts, RUN).problems == ()
    for change, said in (
        ({"seed": 99, **{"seal": sealed(spec)["seal"]}}, "its seal is not the digest"),
        (sealed({**spec, "run_id": "other-1"}), "run_id is 'other-1', expected"),
        (sealed({**spec, "stage": "eval"}), "stage is 'eval', expected train"),
        ({}, "has no seal"),
    ):
        file.write_text(json.dumps({**spec, **change}))
        (problem,) = verify_run(artifacts, RUN).problems
        assert said in problem.text, change
    file.write_text("[]")
    (problem,) = verify_run(artifacts, RUN).problems
    assert "is no JSON object" in problem.text
