"""The verbs of models as people use them: what is printed, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import Invoke, TinyRun
from tests.model_manifests import publish_manifest, publish_tuned
from tests.models.checkpoints import HF_TINY, change_tensors, copy_checkpoint

WIDTH = 80


def sentence(stderr: str) -> str:
    """The one sentence of an expected failure."""
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("tuneloop: ")]
    return line


def fits(out: str, *paths: object) -> bool:
    """Whether each line fits into 80 columns, not counting paths and digests."""
    for path in paths:
        out = out.replace(str(path), "PATH")
    return all(len(line) <= WIDTH for line in out.splitlines())


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    return str(tmp_path / "artifacts")


def test_a_model_is_added_listed_shown_verified_and_checked(
    tuneloop: Invoke, artifacts: str, tmp_path: Path
) -> None:
    source = copy_checkpoint(tmp_path / "source")
    at = ("--artifacts", artifacts)
    code, out, err = tuneloop("models", "add", "tiny-llama", source, *at)
    assert code == 0, err
    assert "licence    apache-2.0" in out.splitlines()
    assert "parameters 176,576" in out.splitlines()
    assert fits(out, source, artifacts)

    code, out, _ = tuneloop("models", "list", *at)
    assert code == 0
    assert out.split() == [
        *("model", "family", "parameters", "size", "dtype", "licence"),
        *("tiny-llama", "llama3", "176,576", "0.7", "MB", "float32", "apache-2.0"),
    ]
    assert fits(out)

    code, out, _ = tuneloop("models", "show", "tiny-llama", *at, "--json")
    shown = json.loads(out)
    assert (code, shown["architecture"]["family"]) == (0, "llama3")
    assert shown["folder"] == f"{artifacts}/models/tiny-llama"
    code, out, _ = tuneloop("models", "show", "tiny-llama", *at)
    assert f"digest     {shown['digest']}" in out.splitlines()

    code, out, _ = tuneloop("models", "verify", "tiny-llama", *at)
    assert (code, out) == (0, "tiny-llama: 6 files are as recorded\n")

    reference = ("--reference", HF_TINY / "llama31.npz")
    code, out, _ = tuneloop("models", "check", "tiny-llama", *at, *reference)
    assert code == 0
    assert out.startswith("tiny-llama: largest difference of logits ")
    assert out.endswith("16 of 16 greedy tokens equal\n")
    code, out, _ = tuneloop("models", "check", "tiny-llama", *at, *reference, "--json")
    result = json.loads(out)
    assert result["passed"]
    assert result["max_difference"] < 2e-5


def test_damage_and_another_function_exit_with_12(
    tuneloop: Invoke, artifacts: str, tmp_path: Path
) -> None:
    source = copy_checkpoint(tmp_path / "source")
    change_tensors(source, model__norm__weight=np.full(64, 1.5, np.float32))
    at = ("--artifacts", artifacts)
    assert tuneloop("models", "add", "other", source, *at)[0] == 0
    code, out, err = tuneloop(
        *("models", "check", "other", *at, "--json", "--reference", HF_TINY / "llama31.npz")
    )
    assert (code, json.loads(out)["passed"]) == (12, False)
    assert "expected the same function as in" in sentence(err)

    (Path(artifacts) / "models" / "other" / "config.json").write_text("{}")
    code, out, err = tuneloop("models", "verify", "other", *at, "--json")
    assert code == 12
    (problem,) = json.loads(out)["problems"]
    assert "config.json: holds 2 bytes, expected" in problem
    assert "other: 1 problems, expected none; delete" in sentence(err)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("add", "tiny", "nothing"), 12, "found no files, expected a folder"),
        (("add", "Tiny", "nothing"), 2, "model name 'Tiny': expected up to 63"),
        (("show", "tiny"), 12, "tiny: neither a model nor a finished run below"),
        (("show", "../x"), 2, "model '../x': expected the name of a stored model or a run id"),
        (("verify", "tiny"), 12, "expected a name of `tuneloop models list` or a run id"),
        (("check", "tiny", "--reference", "r.npz"), 12, "neither a model nor a finished run"),
        (("export", "run-1", "out"), 12, "expected the record of a finished train stage"),
    ],
)
def test_failures_are_one_sentence(
    arguments: tuple[str, ...], code: int, message: str, tuneloop: Invoke, artifacts: str
) -> None:
    found, _, err = tuneloop("models", *arguments, "--artifacts", artifacts)
    assert found == code
    assert message in sentence(err)


def test_the_list_has_unfinished_models_too(tuneloop: Invoke, artifacts: str) -> None:
    code, out, err = tuneloop("models", "list", "--artifacts", artifacts)
    assert (code, out) == (0, "")
    assert err == "no models; add one with `tuneloop models add NAME URL`\n"
    publish_manifest(artifacts, licence="a-very-long-licence-name-that-takes-several-lines")
    (Path(artifacts) / "models" / "begun").mkdir()
    code, out, err = tuneloop("models", "list", "--artifacts", artifacts)
    assert code == 0
    assert fits(out)
    assert err == "warning: begun: unfinished, has no manifest.json; add it again\n"
    code, out, _ = tuneloop("models", "list", "--artifacts", artifacts, "--json")
    begun, small = json.loads(out)["models"]
    assert begun == {"name": "begun", "problem": "unfinished, has no manifest.json; add it again"}
    assert (small["name"], small["size_bytes"]) == ("small-llama", 40)


def test_a_tuned_model_is_shown_by_the_id_of_its_run(tuneloop: Invoke, artifacts: str) -> None:
    publish_tuned(artifacts, "letters-1a2b3c4d", random_weights=True)
    code, out, _ = tuneloop("models", "show", "letters-1a2b3c4d", "--artifacts", artifacts)
    assert code == 0
    assert "base       small-llama" in out.splitlines()
    assert "weights    tuned from random weights" in out.splitlines()


def test_a_tuned_model_is_exported(tuneloop: Invoke, artifacts: str, tmp_path: Path) -> None:
    publish_tuned(artifacts, "letters-1a2b3c4d")
    export = ("models", "export", "letters-1a2b3c4d", tmp_path / "out", "--artifacts", artifacts)
    code, out, err = tuneloop(*export)
    assert (code, out) == (0, f"{tmp_path}/out: 1 files, 0.0 MB\n")
    assert "the run has no finished evaluation" in err
    code, out, _ = tuneloop(*export, "--json")
    result: dict[str, Any] = json.loads(out)
    assert (code, result["files"], result["has_evaluation"]) == (0, ["manifest.json"], False)
    code, _, err = tuneloop(*export, "--adapter")
    assert code == 2
    assert "has no adapter, expected a run with train.method lora" in sentence(err)


@pytest.mark.parametrize("pretrained", [False, True])
def test_the_plan_says_where_the_weights_come_from(
    pretrained: bool, tuneloop: Invoke, tiny_run: TinyRun
) -> None:
    if pretrained:
        publish_manifest(tiny_run.artifacts)
        tiny_run.change(train__model={"kind": "pretrained", "model": "small-llama"})
    code, out, err = tuneloop("plan", tiny_run.spec_path)
    assert code == 0, err
    assert out.splitlines()[1] == (
        "model small-llama (llama3, 6,464 parameters, bfloat16, licence apache-2.0)"
        if pretrained
        else "model random weights (gemma3); it knows nothing before training"
    )
    assert fits(out)
    code, out, _ = tuneloop("plan", tiny_run.spec_path, "--json")
    assert json.loads(out)["model"]["random_weights"] is not pretrained
