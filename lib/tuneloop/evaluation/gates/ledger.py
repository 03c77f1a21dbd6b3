"""The ledger of all candidates that were tried against one base on one eval set.

Who tries often enough passes any single test by luck. So each candidate gets a number, and with it
its share of the allowed error: the later, the less (online alpha spending: Tian and Ramdas 2021,
"Online control of the familywise error rate"). The shares of all candidates add up to the whole.

The ledger is create-only. Each number is one object, so of several writers exactly one gets it.
"""

from __future__ import annotations

import hashlib
import math

import msgspec

from tuneloop.artifacts import layout
from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.storage.objects import read_many

ALPHA = 0.05


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate in the ledger."""

    number: int
    """Number of the candidate, from 1."""
    base: str
    """Digest of the base model."""
    eval_set: str
    """Digest of the eval set."""
    candidate: str
    """Digest of the tuned model."""
    run_id: str
    """First run that tried it."""


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(Attempt).decode


def alpha_of(number: int, alpha: float = ALPHA) -> float:
    """Return the share of the allowed error that a candidate gets.

    It is alpha * 6 / (pi * number)**2, which adds up to alpha over all numbers.

    Args:
        number: number of the candidate in the ledger, from 1.
        alpha: allowed probability that any candidate passes although it is no better.
    """
    return alpha * 6 / (math.pi * number) ** 2


def register(artifacts: str, *, base: str, eval_set: str, candidate: str, run_id: str) -> Attempt:
    """Add a candidate unless it is in the ledger.

    Args:
        artifacts: URL of the artifacts.
        base: digest of the model that it is compared with.
        eval_set: digest of the eval set.
        candidate: digest of the tuned model.
        run_id: run that trained it.

    Returns:
        The entry of the candidate; an earlier one if it was tried before, also by another run.

    Raises:
        DataError: an entry is broken.
    """
    listed = attempts(artifacts, base=base, eval_set=eval_set)
    known = [one for one in listed if one.candidate == candidate]
    if known:
        return known[0]
    number = max((one.number for one in listed), default=0) + 1
    prefix = _prefix(artifacts, base, eval_set)
    while True:
        url = paths.join(prefix, _name(number))
        own = Attempt(
            number=number, base=base, eval_set=eval_set, candidate=candidate, run_id=run_id
        )
        if files.publish(url, _encode(own) + b"\n"):
            return own
        # Another writer was faster; it may have tried the same candidate.
        found = _parse(files.read(url), url)
        if found.candidate == candidate:
            return found
        number += 1


def attempts(artifacts: str, *, base: str, eval_set: str) -> list[Attempt]:
    """Read the ledger of a base model and an eval set, by number.

    Raises:
        DataError: an entry is broken.
    """
    prefix = _prefix(artifacts, base, eval_set)
    urls = [paths.join(prefix, name) for name in files.list_names(prefix) if name[:1] != "."]
    found = zip(urls, read_many(urls), strict=True)
    parsed = [_parse(data, url) for url, data in found if data is not None]
    return sorted(parsed, key=lambda one: one.number)


def _prefix(artifacts: str, base: str, eval_set: str) -> str:
    key = hashlib.sha256(f"{base}\n{eval_set}".encode()).hexdigest()
    return layout.ledger_prefix(artifacts, key)


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _parse(data: bytes, url: str) -> Attempt:
    try:
        found = _decode(data)
    except (msgspec.DecodeError, ValueError) as e:
        raise DataError(
            f"{url}: not an entry of the ledger of candidates: {e}; restore the object, because"
            " without it the number of candidates is not known"
        ) from e
    if not url.endswith(f"/{_name(found.number)}"):
        raise DataError(
            f"{url}: holds the entry number {found.number}, expected the number of its name;"
            " restore the object"
        )
    return found
