from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.training.models.checkpoints import random_tensors, tiny_config, write_folder
from tuneloop.errors import DataError
from tuneloop.specs.training.method import LoraMethod
from tuneloop.training.models.hf_layout import CheckpointFiles, open_folder
from tuneloop.training.models.lora.merge import Adapter
from tuneloop.training.models.lora.peft import peft_files
from tuneloop.training.models.naming import NameStyle
from tuneloop.training.models.publish.adapter_parity import check_adapter

METHOD = LoraMethod(kind="lora", rank=2, alpha=3.0)
CONFIG = tiny_config("llama")
QUERY = "model.layers.1.self_attn.q_proj.weight"


def adapter() -> dict[str, Adapter]:
    """An adapter of the queries of one block, with 4 heads of 16."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((64, 2), np.float32), rng.standard_normal((2, 4, 16), np.float32)
    return {"layers.1.attn.q_proj.w": Adapter(a, b, 1.5, "Dr,rNH->DNH")}


def folders(
    place: Path, dtype: Any = np.float32, prefix: str = "model."
) -> tuple[CheckpointFiles, CheckpointFiles]:
    """Write a base, and the base with the adapter merged by its definition."""
    base = random_tensors(CONFIG, dtype)
    (one,) = adapter().values()
    delta = np.einsum("Dr,rNH->NHD", one.a, one.b).reshape(64, 64) * np.float32(one.scale)
    merged = {**base, QUERY: (base[QUERY].astype(np.float32) + delta).astype(dtype)}
    found = []
    for name, tensors in (("base", base), ("merged", merged)):
        named = {key.replace("model.", prefix, 1): value for key, value in tensors.items()}
        found.append(open_folder(str(write_folder(place / name, CONFIG, named))))
    return found[0], found[1]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_base_and_adapter_give_the_merged_weights(dtype: Any, tmp_path: Path) -> None:
    base, merged = folders(tmp_path, dtype)
    files = peft_files(adapter(), "llama3", METHOD, "base")
    found = check_adapter(files, base, merged, "adapter")
    assert (found.reader, found.dtype) == ("adapter", np.dtype(dtype).name)
    assert found.greedy_equal is None
    assert found.max_difference <= found.limit < 0.5


def test_names_of_a_multimodal_base_are_followed(tmp_path: Path) -> None:
    base, merged = folders(tmp_path, prefix="language_model.model.")
    style = NameStyle("language_model.model.", "language_model.")
    files = peft_files(adapter(), "llama3", METHOD, "base", style)
    assert check_adapter(files, base, merged, "adapter").max_difference < 1e-5


def test_another_scale_is_found(tmp_path: Path) -> None:
    base, merged = folders(tmp_path)
    other = METHOD.model_copy(update={"alpha": 4.0})
    with pytest.raises(DataError, match=rf"adapter: .* gives weights {QUERY} that differ by \d"):
        check_adapter(peft_files(adapter(), "llama3", other, "x"), base, merged, "adapter")


def test_an_adapter_for_another_model_is_found(tmp_path: Path) -> None:
    base, merged = folders(tmp_path)
    (one,) = adapter().values()
    files = peft_files({"layers.7.attn.q_proj.w": one}, "llama3", METHOD, "x")
    with pytest.raises(DataError, match=r"an adapter for model\.layers\.7\.self_attn\.q_proj\.we"):
        check_adapter(files, base, merged, "adapter")
