"""The order in which training reads rows, computed place by place.

The row at a place is a function of (number of rows, seed, place). No order of a whole epoch is
ever built, so a step costs the same for any number of rows, and training can resume at any step.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

ROUNDS = 8
"""Feistel rounds. Four make a pseudorandom permutation in theory; more help when there are few
rows."""


def rows_at(places: np.ndarray, rows: int, *, seed: int) -> np.ndarray:
    """Return the rows at places of the endless sequence of epochs; each epoch has every row once.

    Args:
        places: int64; place p is place p % rows of epoch p // rows.
        rows: number of rows, at least 1.
        seed: seed of the run.

    Returns:
        int64, of the shape of `places`.
    """
    epochs, within = np.divmod(places, rows)
    found = np.empty_like(within)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        found[chosen] = permute(within[chosen], rows, key=f"{seed}/{epoch}")
    return found


def permute(numbers: np.ndarray, size: int, *, key: str) -> np.ndarray:
    """Map numbers below `size` to numbers below `size`, one to one.

    It is the generalized Feistel cipher over pairs of digits, with cycle walking, of Black and
    Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002): a number is two digits of base
    ceil(sqrt(size)), a round adds a hash of one digit to the other, and a result that is not below
    `size` is mapped again. It shuffles; it is not meant to keep secrets.

    Args:
        numbers: int64, each from 0 to size - 1.
        size: number of values.
        key: selects the permutation.
    """
    base = np.uint64(math.isqrt(size - 1) + 1)
    digest = hashlib.blake2b(key.encode(), digest_size=8 * ROUNDS).digest()
    round_keys = np.frombuffer(digest, "<u8")
    found = numbers.astype(np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():  # ends: a permutation leads back to the number that it started from
        found[outside] = _encipher(found[outside], base, round_keys)
        outside = found >= size
    return found.astype(np.int64)


def _encipher(numbers: np.ndarray, base: np.uint64, round_keys: np.ndarray) -> np.ndarray:
    """Permute the numbers below base * base."""
    left, right = np.divmod(numbers, base)
    for key in round_keys:
        left, right = right, (left + _mix(right + key) % base) % base
    return left * base + right


def _mix(value: np.ndarray) -> np.ndarray:
    """Hash uint64 values with the output function of SplitMix64 (Steele et al., OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = value ^ (value >> np.uint64(31))
    return mixed
