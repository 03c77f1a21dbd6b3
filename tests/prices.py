"""A price list that tests of costs share."""

from __future__ import annotations

from typing import Any

from tuneloop.history.cost.prices import PriceList

PRICES: dict[str, Any] = {
    "currency": "USD",
    "per_hour": {
        "cpu": {"on_demand": 0.1},
        "v5e": {"on_demand": 1.2, "spot": 0.5},
        "v5e-4x4": {"on_demand": 1.0},
        "h100-80gb": {"on_demand": 4.0},
        "h100": {"on_demand": 99.0},
    },
}
LISTED = PriceList.model_validate(PRICES)
