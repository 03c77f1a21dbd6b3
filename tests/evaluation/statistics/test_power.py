from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tuneloop.evaluation.statistics.paired import mcnemar_p
from tuneloop.evaluation.statistics.power import (
    MAX_ITEMS,
    detectable_gain,
    detectable_like,
    discordance_of,
    items_needed,
    power_of,
)


@pytest.mark.parametrize(("items", "gain", "discordance"), [(60, 0.2, 0.3), (200, 0.1, 0.25)])
def test_power_is_how_often_the_test_finds_the_gain(
    items: int, gain: float, discordance: float
) -> None:
    up, down = (discordance + gain) / 2, (discordance - gain) / 2
    drawn = np.random.default_rng(7).multinomial(items, (up, down, 1 - up - down), size=2000)
    rows, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    found = [mcnemar_p(int(lost), int(won)) < 0.05 and won > lost for won, lost in rows]
    assert power_of(items, gain, discordance) == pytest.approx(
        float(counts[found].sum()) / 2000, abs=0.03
    )


@pytest.mark.parametrize("discordance", [0.06, 0.2, 0.5])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_the_number_of_items_is_the_least_that_has_the_power(
    discordance: float, power: float
) -> None:
    items = items_needed(0.05, discordance, power)
    assert items is not None
    assert power_of(items - 1, 0.05, discordance) < power <= power_of(items, 0.05, discordance)
    gain = detectable_gain(items, discordance, power)
    assert gain == pytest.approx(0.05, abs=0.001)


def test_a_published_example_of_sample_size() -> None:
    # The approximation of Connor (1987) gives 234; the exact test needs a few items more.
    assert 234 <= (items_needed(0.1, 0.3) or 0) <= 255


def test_too_few_items_show_no_gain_and_tiny_gains_need_too_many() -> None:
    assert detectable_gain(5, 0.9) is None
    assert detectable_gain(0, 0.3) is None
    assert detectable_gain(100, 0.0) is None
    assert items_needed(1e-5, 0.3) is None
    assert (items_needed(0.005, 0.3) or MAX_ITEMS) < MAX_ITEMS


def test_the_gain_that_a_set_like_another_shows() -> None:
    """It is the gain of the plan for the same discordance, so report and plan agree."""
    differences = np.array([1.0] * 30 + [-1.0] * 20 + [0.0] * 150)
    planned = detectable_gain(200, 0.25)
    assert planned is not None
    assert detectable_like(differences) == planned
    assert detectable_like(differences / 4) == pytest.approx(planned / 4)
    # Six wins without a loss are significant, and five are not.
    same = detectable_like(np.zeros(200))
    assert same is not None
    assert stats.binom.sf(5, 200, same) == pytest.approx(0.8)
    assert power_of(200, same, same) == pytest.approx(0.8)
    assert detectable_like(np.array([1.0, -1.0] + [0.0] * 198)) == same
    assert detectable_like(np.zeros(5)) is None
    assert (detectable_like(np.zeros(6)) or 0) > 0.9


def test_discordance_from_accuracy_and_correlation() -> None:
    assert discordance_of(0.4, 0.05, 0.0) == pytest.approx(0.4 * 0.55 + 0.6 * 0.45)
    assert discordance_of(0.4, 0.05, 1.0) == pytest.approx(0.05)
    assert discordance_of(0.4, 0.05) == pytest.approx(0.246, abs=0.001)
    assert discordance_of(0.0, 0.2) == pytest.approx(0.2)
    assert discordance_of(0.9, 0.1) == pytest.approx(0.1)
    assert discordance_of(0.02, 0.9, -1.0) <= 1
