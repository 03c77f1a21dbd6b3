"""Price lists: the price of an hour of each accelerator, from a YAML file."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from tuneloop.artifacts.runs.run_manifest import RunManifest
from tuneloop.errors import UsageError
from tuneloop.specs.base import Spec
from tuneloop.storage import files
from tuneloop.yaml_in import load_model


class Price(Spec):
    """Prices of one chip for an hour; for `cpu`, of one pod."""

    on_demand: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Price of a machine that is not a Spot machine; null if it is not known."""
    spot: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Price of a Spot machine; null if it is not known."""


class PriceList(Spec):
    """The content of a price file."""

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    """Currency of all prices, such as USD."""
    per_hour: dict[str, Price]
    """Shape such as `v5e-4x4`, or the beginning of several such as `v5e` -> its prices."""

    def of(self, accelerator: str, *, spot: bool) -> float | None:
        """Return the price of an hour; None if the list has none.

        Args:
            accelerator: machine shape, such as `cpu` or `v5e-4x4`.
            spot: whether it is a Spot machine.
        """
        fitting = [
            name
            for name in self.per_hour
            if accelerator == name or accelerator.startswith(f"{name}-")
        ]
        if not fitting:
            return None
        price = self.per_hour[max(fitting, key=len)]
        return price.spot if spot else price.on_demand


PricesOf = Callable[[RunManifest | None], PriceList | None]
"""Returns the prices for a run; None shows none."""


def load_prices(url: str) -> PriceList:
    """Read a price list.

    Raises:
        UsageError: there is no such file.
        SpecError: it is not a price list.
    """
    try:
        data = files.read(url)
    except FileNotFoundError as e:
        raise UsageError(
            f"{url}: no such file, expected a price list; check --prices or execution.prices"
        ) from e
    return load_model(PriceList, data, url, "keys of a price list")
