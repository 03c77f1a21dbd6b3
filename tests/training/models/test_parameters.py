from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tuneloop.errors import DataError
from tuneloop.specs.model import RandomModelSpec
from tuneloop.training.models.families import gemma3
from tuneloop.training.models.parameters import flat_params, load_params
from tuneloop.training.models.random_weights import build_random_model

SPEC = RandomModelSpec(
    num_layers=1, embed_dim=16, hidden_dim=32, num_heads=2, num_kv_heads=1, head_dim=8
)
ARCHITECTURE = gemma3.architecture_of(SPEC, 64)


def test_params_round_trip() -> None:
    params = flat_params(build_random_model(ARCHITECTURE, 0))
    model = gemma3.abstract_model(ARCHITECTURE, "float32")
    load_params(model, params)
    digests = [
        hashlib.sha256(b"".join(p[name].tobytes() for name in p)).hexdigest()
        for p in (params, flat_params(model))
    ]
    assert digests[0] == digests[1]


def test_params_of_another_shape_are_refused() -> None:
    params = flat_params(build_random_model(ARCHITECTURE, 0))
    wider = gemma3.abstract_model(gemma3.architecture_of(SPEC, 128), "float32")
    with pytest.raises(DataError, match=r"input_embedding: found shape \(64, 16\).*\(128, 16\)"):
        load_params(wider, params)
    del params["final_norm.scale"]
    params["extra"] = np.zeros(1)
    with pytest.raises(DataError, match=r"1 missing \(final_norm.scale\) and 1 unknown \(extra\)"):
        load_params(gemma3.abstract_model(ARCHITECTURE, "float32"), params)
