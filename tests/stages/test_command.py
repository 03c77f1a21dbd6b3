from __future__ import annotations

import pytest

from tuneloop.errors import SpecError
from tuneloop.stages.command import PEAK_ENV, peak_flops_per_second


def test_the_peak_rate_of_a_device_is_in_its_environment() -> None:
    assert peak_flops_per_second({PEAK_ENV: "1153.5"}) == 1153.5e12
    assert peak_flops_per_second({}) is None


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "nan", "inf"])
def test_a_wrong_peak_rate_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=f"{PEAK_ENV} is .*expected the peak rate"):
        peak_flops_per_second({PEAK_ENV: text})
