from __future__ import annotations

import pytest

from tuneloop.specs.training import OptimizerSpec
from tuneloop.training.sft import optimizers


def test_schedule_warms_up_and_decays() -> None:
    spec = OptimizerSpec(learning_rate=1.0, warmup_ratio=0.1, min_lr_ratio=0.05)
    schedule = optimizers.learning_rate_schedule(spec, 50)
    assert float(schedule(0)) == 0
    assert float(schedule(5)) == pytest.approx(1.0)
    assert float(schedule(50)) == pytest.approx(0.05)
    # A schedule of one step is possible.
    assert float(optimizers.learning_rate_schedule(spec, 1)(0)) == 0
