from __future__ import annotations

import numpy as np

from tuneloop.training.sft import metrics


def test_dumped_metrics_are_strict_json() -> None:
    row = metrics.StepMetrics(1, float(np.float32(0.1)), 0.0, 1.5, 10, 0.25)
    assert metrics.dump_metrics([row]) == (
        b'{"grad_norm":1.5,"learning_rate":0.0,"loss":0.10000000149011612,"step":1,'
        b'"step_seconds":0.25,"tokens":10}\n'
    )
