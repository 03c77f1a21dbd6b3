from __future__ import annotations

import pytest

from tuneloop.errors import UsageError
from tuneloop.stages.lifecycle.command import peak_flops_per_second

PEAK = "TUNELOOP_DEVICE_PEAK_TFLOPS"


def test_the_peak_rate_of_a_device_is_in_its_environment() -> None:
    assert peak_flops_per_second({PEAK: "1153.5\n"}) == 1153.5e12
    assert peak_flops_per_second({}) is None
    assert peak_flops_per_second({PEAK: ""}) is None


@pytest.mark.parametrize("text", ["fast", "0", "-1", "nan", "inf"])
def test_a_wrong_peak_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"{PEAK} is .*expected"):
        peak_flops_per_second({PEAK: text})
