from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuneloop.errors import DataError
from tuneloop.training.models.check import TOLERANCE, check_model, load_reference
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.loading import load_model

HF_TINY = Path(__file__).parents[2] / "data" / "hf_tiny"
FOLDERS = sorted(each.name for each in HF_TINY.iterdir() if each.is_dir())


def load(folder: Path) -> Any:
    config = json.loads((folder / "config.json").read_text())
    architecture = parse_config(config, f"{folder}/config.json")
    return load_model(open_folder(str(folder)), architecture, dtype="float32")


@pytest.mark.parametrize("name", FOLDERS)
def test_logits_and_greedy_tokens_equal_those_of_transformers(name: str) -> None:
    """The references were made with transformers 5.24 and torch in float32."""
    result = check_model(load(HF_TINY / name), load_reference(f"{HF_TINY / name}.npz"), name)
    assert result.max_difference <= TOLERANCE
    assert (result.greedy_equal, result.greedy_tokens) == (16, 16)
    assert result.passed
    assert 0.9 < result.logits_std < 1.1


def test_another_model_does_not_pass_and_another_vocabulary_is_refused(tmp_path: Path) -> None:
    model = load(HF_TINY / "gemma3")
    with np.load(HF_TINY / "gemma3.npz") as arrays:
        reference = dict(arrays)
    reference["logits"][0, 1, 2] += 1e-4
    reference["gen"][0, 15] += 1
    np.savez(tmp_path / "other.npz", **reference)
    result = check_model(model, load_reference(f"{tmp_path}/other.npz"), "gemma3")
    assert not result.passed
    assert result.max_difference == pytest.approx(1e-4, rel=0.2)
    assert result.greedy_equal == 3
    np.savez(tmp_path / "other.npz", **{**reference, "logits": reference["logits"][..., :500]})
    with pytest.raises(DataError, match="gemma3: has 512 logits per token, but the reference 500"):
        check_model(model, load_reference(f"{tmp_path}/other.npz"), "gemma3")


def test_malformed_references_are_one_sentence(tmp_path: Path) -> None:
    url = f"{tmp_path}/reference.npz"
    with pytest.raises(DataError, match="missing, expected a reference"):
        load_reference(url)
    Path(url).write_bytes(b"no archive")
    with pytest.raises(DataError, match="expected an npz file with ids, logits and gen"):
        load_reference(url)
    np.savez(url, ids=np.zeros((1, 2)))
    with pytest.raises(DataError, match="logits is not a file in the archive"):
        load_reference(url)
    np.savez(url, ids=np.zeros((1, 2)), logits=np.zeros((1, 3, 4)), gen=np.zeros((1, 28)))
    with pytest.raises(DataError, match=r"ids is \(1, 2\), logits \(1, 3, 4\)"):
        load_reference(url)
