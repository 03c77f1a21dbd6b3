"""Candidates of a selection, and the columns of numbers that the rules work on.

A million candidates pass as objects, one at a time, and only their columns are kept: some 150
bytes per candidate with MinHash bands, 40 without.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tuneloop.datasets.selection.spec import FIELDS, TIME, Comparison, SelectionSpec, time_text
from tuneloop.datasets.text.normalize import normalize_words
from tuneloop.datasets.text.terms import normalize_terms

NO_VALUE = -1
"""Number of the group of traces that do not have the value of a capped field."""
_KEY_BYTES = 16
_NO_VALUES: Mapping[str, Any] = {}


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A trace that may be selected. Only the fields that the rules use must be given."""

    id: str
    prompt_key: str = "0" * 2 * _KEY_BYTES
    """32 hexadecimal digits, equal for traces of the same prompt."""
    reward: float | None = None
    length: int | None = None
    """Code points of prompt, steps and final answer."""
    created_at: str | None = None
    """Time in the form of `utc_text`."""
    source: str | None = None
    model_digest: str | None = None
    values: Mapping[str, Any] = _NO_VALUES
    """Values of the other fields of the spec by their names, such as `scores.exact`. A field that
    the trace does not have is absent."""
    dataset: str | None = None
    """Key of the dataset that the trace comes from; needed if the spec names datasets."""
    prompt: str = ""
    response: str = ""
    """Steps and final answer; both texts are only needed for near-duplicates."""

    def value(self, field: str) -> Any:
        """Return the value of a field; None if the trace does not have it, or if it is null."""
        return getattr(self, field) if field in FIELDS else self.values.get(field)


@dataclass(frozen=True)
class Columns:
    """The candidates that passed `where`, and the prompts of all candidates."""

    considered: int
    """Number of all candidates."""
    prompts: npt.NDArray[np.uint64]
    """Prompt keys of all candidates, shape (considered, 2)."""
    passes: npt.NDArray[np.int8]
    """1 if the reward of a candidate passes, 0 if not, -1 without a reward, shape (considered,);
    empty without the rule."""
    positions: npt.NDArray[np.int64]
    """Positions of the rows among all candidates, shape (rows,), ascending."""
    ranks: npt.NDArray[np.uint64]
    """Digests of seed and id, shape (rows,)."""
    scores: npt.NDArray[np.float64]
    """Values of `best_of.by`, shape (rows,), -inf if missing; empty without the rule."""
    bands: npt.NDArray[np.uint64]
    """Keys of MinHash bands, shape (rows, bands); empty without the rule."""
    groups: Mapping[str, npt.NDArray[np.int64]]
    """Number of the value of each capped field, or NO_VALUE, shape (rows,)."""
    datasets: npt.NDArray[np.int64]
    """Number of the dataset in the spec, sorted by key, shape (rows,); empty without datasets."""
    failed: tuple[int, ...]
    """Candidates that each comparison removed, in the order of `compile_where`."""
    missing: tuple[int, ...]
    """Those of them without the value."""


Passes = Callable[[Any], bool]


def compile_where(spec: SelectionSpec) -> list[tuple[str, Passes]]:
    """Return the comparisons of a spec as functions of a field's value, sorted by field."""
    return [(field, _comparison(field, spec.where[field])) for field in sorted(spec.where)]


def _comparison(field: str, rule: Comparison) -> Passes:
    low, high = (_bound(field, bound) for bound in (rule.min, rule.max))
    accepted = None if rule.any_of is None else frozenset(map(_identity, rule.any_of))
    refused = frozenset(map(_identity, rule.none_of or ()))
    kinds = str if field == TIME else (int, float)

    def passes(value: Any) -> bool:
        if low is not None or high is not None:
            if not isinstance(value, kinds) or isinstance(value, bool):
                return False
            if (low is not None and value < low) or (high is not None and value > high):
                return False
        if accepted is None and not refused:
            return True
        identity = _identity(value)
        return (accepted is None or identity in accepted) and identity not in refused

    return passes


def _bound(field: str, bound: float | str | None) -> Any:
    return time_text(bound) if field == TIME and bound is not None else bound


def _identity(value: Any) -> Any:
    """Return what equal JSON values have in common; in Python, True equals 1."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list | dict):
        return ("json", msgspec.json.encode(value, order="deterministic"))
    return value


def rank_of(seed: int, trace_id: str) -> int:
    """Return the first 64 bits of the digest of seed and id, which orders a random selection."""
    digest = hashlib.sha256(f"{seed}/{trace_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def read_columns(rows: Iterable[Candidate], spec: SelectionSpec, seed: int) -> Columns:
    """Read all candidates and keep what the rules need.

    Args:
        rows: the candidates.
        spec: the rules.
        seed: seed of the ranks.
    """
    reader = _Reader(spec, seed)
    for row in rows:
        reader.add(row)
    return reader.columns()


class _Reader:
    def __init__(self, spec: SelectionSpec, seed: int) -> None:
        self._spec, self._seed = spec, seed
        self._where = compile_where(spec)
        self._failed, self._missing = [0] * len(self._where), [0] * len(self._where)
        self._prompts, self._passes = bytearray(), array("b")
        self._positions, self._ranks, self._scores = array("q"), array("Q"), array("d")
        self._bands, self._datasets = array("Q"), array("q")
        self._numbers: dict[str, dict[Any, int]] = {field: {} for field in spec.caps}
        self._groups = {field: array("q") for field in spec.caps}
        self._keys = {key: number for number, key in enumerate(sorted(spec.datasets))}
        self._band_keys = _band_keys() if spec.near_duplicates else None
        self._considered = 0

    def add(self, row: Candidate) -> None:
        position = self._considered
        self._considered += 1
        self._prompts += bytes.fromhex(row.prompt_key)
        if self._spec.pass_rate is not None:
            reward = row.reward
            passed = -1 if reward is None else int(reward >= self._spec.pass_rate.threshold)
            self._passes.append(passed)
        if self._passes_where(row):
            self._keep(position, row)

    def _passes_where(self, row: Candidate) -> bool:
        for number, (field, passes) in enumerate(self._where):
            value = row.value(field)
            if not passes(value):
                self._failed[number] += 1
                self._missing[number] += value is None
                return False
        return True

    def _keep(self, position: int, row: Candidate) -> None:
        spec = self._spec
        self._positions.append(position)
        self._ranks.append(rank_of(self._seed, row.id))
        if spec.best_of is not None:
            self._scores.append(_number(row.value(spec.best_of.by)))
        if self._band_keys is not None and spec.near_duplicates is not None:
            # Operators count in prompts, which are short: `13 + 4` is no duplicate of `13 - 4`.
            words = normalize_terms(row.prompt)
            if spec.near_duplicates.text == "trace":
                words += b" " + normalize_words(row.response)
            self._bands.extend(self._band_keys(words))
        for field, numbers in self._numbers.items():
            value = row.value(field)
            number = NO_VALUE
            if value is not None:
                number = numbers.setdefault(_identity(value), len(numbers))
            self._groups[field].append(number)
        if self._keys:
            self._datasets.append(self._keys[row.dataset or ""])

    def columns(self) -> Columns:
        rows = len(self._positions)
        bands = np.frombuffer(self._bands, np.uint64)
        return Columns(
            considered=self._considered,
            prompts=np.frombuffer(self._prompts, np.uint64).reshape(-1, 2),
            passes=np.frombuffer(self._passes, np.int8),
            positions=np.frombuffer(self._positions, np.int64),
            ranks=np.frombuffer(self._ranks, np.uint64),
            scores=np.frombuffer(self._scores, np.float64),
            bands=bands.reshape(rows, -1) if rows and len(bands) else bands.reshape(0, 0),
            groups={name: np.frombuffer(one, np.int64) for name, one in self._groups.items()},
            datasets=np.frombuffer(self._datasets, np.int64),
            failed=tuple(self._failed),
            missing=tuple(self._missing),
        )


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return -np.inf
    try:
        return float(value)
    except OverflowError:  # an integer of more than 300 digits
        return np.inf if value > 0 else -np.inf


def _band_keys() -> Callable[[bytes], Sequence[int]]:
    from tuneloop.datasets.text.minhash import band_keys  # imports rensa, of the extra `data`

    return band_keys
