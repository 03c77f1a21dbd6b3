"""Named baselines: runs that passed a gate and that later runs are compared with.

Each version of a baseline is one create-only object; the one with the highest number counts.
"""

from __future__ import annotations

import re

import msgspec

from tuneloop.artifacts import layout
from tuneloop.errors import DataError, InputMissing, UsageError
from tuneloop.storage import files, paths

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a baseline."""

    name: str
    number: int
    """Version, from 1."""
    run_id: str
    digest: str
    """Digest of the run's tuned model."""


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(Baseline).decode


def promote(artifacts: str, name: str, *, run_id: str, digest: str) -> Baseline:
    """Make a run the newest version of a baseline, unless it is that already.

    The caller has checked that the run passes its gate.

    Raises:
        UsageError: the name is not valid.
        DataError: a version is broken.
    """
    found = versions(artifacts, name)
    number = found[-1].number if found else 0
    if found and found[-1].digest == digest:
        return found[-1]
    while True:
        number += 1
        own = Baseline(name=name, number=number, run_id=run_id, digest=digest)
        if files.publish(_url(artifacts, name, number), _encode(own) + b"\n"):
            return own


def current(artifacts: str, name: str) -> Baseline:
    """Return the newest version of a baseline.

    Raises:
        InputMissing: there is no such baseline.
    """
    found = versions(artifacts, name)
    if not found:
        raise InputMissing(
            f"{layout.baseline_prefix(artifacts, name)}: missing, expected the baseline {name};"
            " make one with `tuneloop gate RUN_ID --promote NAME`"
        )
    return found[-1]


def versions(artifacts: str, name: str) -> list[Baseline]:
    """Read all versions of a baseline, the oldest first."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"baseline {name!r}: expected lower-case letters, digits, '.', '_' and '-', at most 63"
            " characters; choose another name"
        )
    prefix = layout.baseline_prefix(artifacts, name)
    found = []
    for each in files.list_names(prefix):
        if each.startswith("."):  # an unfinished write to a local folder
            continue
        url = paths.join(prefix, each)
        found.append(parse_version(files.read(url), url))
    return sorted(found, key=lambda one: one.number)


def parse_version(data: bytes, url: str) -> Baseline:
    """Parse one version of a baseline.

    Raises:
        DataError: it is not one.
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, ValueError) as e:
        raise DataError(
            f"{url}: not a version of a baseline: {e}; delete the object, or restore it"
        ) from e


def _url(artifacts: str, name: str, number: int) -> str:
    return paths.join(layout.baseline_prefix(artifacts, name), f"{number:06d}.json")
