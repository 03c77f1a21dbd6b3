"""A stored model computes what another program has computed with the same checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.checkpoints import HF_TINY
from tuneloop.artifacts.model_manifest import model_prefix
from tuneloop.models.add import Request, add_model
from tuneloop.models.weights import check_against


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ["gemma3_mm", "gemma3_sharded"])
def test_a_stored_model_computes_what_the_reference_says(
    name: str, in_place: bool, tmp_path: Path
) -> None:
    artifacts = str(tmp_path)
    request = Request("tiny", str(HF_TINY / name), artifacts, in_place=in_place)
    manifest = add_model(request)
    assert manifest.parameters == 292_896  # of the text model alone
    assert manifest.tokenizer_sha256 is None
    folder = model_prefix(artifacts, "tiny")
    assert check_against(manifest, folder, f"{HF_TINY / name}.npz").passed
