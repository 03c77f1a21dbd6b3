"""Copies of a model's parameters, to compare them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tuneloop.training.models.parameters import live_params


def flat_params(model: Any) -> dict[str, np.ndarray]:
    """Copy every parameter, by dotted name; later training steps do not change the copies."""
    return {name: np.array(array) for name, array in live_params(model).items()}
