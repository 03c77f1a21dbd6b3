"""From the samples of a round to the datasets of its arms: what can be trained on, and what is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from tuneloop import jsonl
from tuneloop.datasets.build import build
from tuneloop.datasets.pointer import is_index, pointer_tokens
from tuneloop.datasets.schema import BuildRequest, DatasetManifest, Selection, row_of_payload
from tuneloop.datasets.selection.account import SelectionAccount
from tuneloop.datasets.selection.candidates import Candidate
from tuneloop.datasets.selection.pipeline import select_rows
from tuneloop.datasets.selection.spec import SelectionSpec
from tuneloop.errors import DataError
from tuneloop.specs.base import Seed
from tuneloop.traces.schema import prompt_key

CREATED_AT = "1970-01-01T00:00:00.000000Z"
"""Creation time of every row, because a sample has none: data holds no clock."""
TRAINABLE = ("correct", "wrong")
"""States of samples that have an answer."""


@dataclass(frozen=True)
class Sample:
    """A sample that can be an example."""

    id: str
    line: bytes
    """The trace as canonical JSON."""
    trace: Mapping[str, Any]


@dataclass(frozen=True)
class Pool:
    """The samples of a round that all arms may be trained on."""

    samples: tuple[Sample, ...]
    """In the order of the file."""
    total: int
    """Samples in the file."""
    unusable: int
    """Samples without an answer, without a score, or cut at the maximum number of tokens."""
    repeated: int
    """Samples whose prompt, steps and answer another one has."""
    full_reward: int
    """Samples with the reward 1, of all samples of the file."""


@dataclass(frozen=True)
class Chosen:
    """The samples of one arm."""

    samples: tuple[Sample, ...]
    account: SelectionAccount


def read_pool(lines: Sequence[bytes], place: str) -> Pool:
    """Read the samples of a round.

    Args:
        lines: lines of sampled.jsonl.
        place: URL of the file, for errors.

    Raises:
        DataError: a line is not a sample.
    """
    found: dict[tuple[str, ...], Sample] = {}
    unusable = repeated = full = 0
    for number, line in enumerate(lines, start=1):
        try:
            trace = msgspec.json.decode(line)
            meta = trace["meta"]
            is_usable = meta["state"] in TRAINABLE and not meta["hit_token_limit"]
            sample = Sample(meta["sample_id"], line, trace)
            full += _reward(trace) == 1
            contents = [step["content"] for step in trace["steps"]]
            text = (_prompt_key(trace), *contents, trace["final_answer"])
        except (msgspec.DecodeError, KeyError, TypeError) as e:
            raise DataError(
                f"{place}:{number}: is not a sample ({e!r}), expected a trace of the sample stage;"
                " restore the file"
            ) from e
        if not is_usable:
            unusable += 1
        elif found.setdefault(text, sample) is not sample:
            repeated += 1
    return Pool(tuple(found.values()), len(lines), unusable, repeated, full)


def choose(pool: Pool, rules: SelectionSpec, seed: Seed, most: int | None = None) -> Chosen:
    """Apply the rules of a selection to a pool, in an order that the seed determines."""
    by_id = {sample.id: sample for sample in pool.samples}
    fields = rules.fields()
    rows = (_candidate(sample, fields) for sample in pool.samples)
    found = select_rows(rows, rules, seed, strategy="random", limit=most)
    return Chosen(tuple(by_id[each] for each in found.ids), found.account)


def draw(pool: Pool, count: int, seed: Seed) -> Chosen:
    """Draw samples at random from all of a pool: the matched control."""
    return choose(pool, SelectionSpec(), seed, count)


def _candidate(sample: Sample, fields: Sequence[str]) -> Candidate:
    trace, meta = sample.trace, sample.trace["meta"]
    steps = "\n".join(step["content"] for step in trace["steps"])
    prompt, answer = trace["prompt"], trace["final_answer"]
    reward = _reward(trace)
    values = {"scores.reward": reward}
    for field in fields:
        if field.startswith("/"):
            values[field] = _value_at(meta, field)
    return Candidate(
        id=sample.id,
        prompt_key=_prompt_key(trace),
        reward=reward,
        length=len(prompt) + len(answer) + sum(len(step["content"]) for step in trace["steps"]),
        created_at=CREATED_AT,
        source=meta.get("source"),
        model_digest=meta.get("model_digest"),
        values={field: value for field, value in values.items() if value is not None},
        prompt=prompt,
        response=f"{steps}\n{answer}",
    )


def _prompt_key(trace: Mapping[str, Any]) -> str:
    return prompt_key(trace["prompt"], trace.get("system"), trace.get("messages"))


def _reward(trace: Mapping[str, Any]) -> float | None:
    reward: float | None = trace.get("reward", trace["meta"].get("reward"))
    return reward


def _value_at(value: Any, path: str) -> Any:
    """Return the value at a JSON Pointer; None if there is none."""
    for token in pointer_tokens(path):
        if isinstance(value, dict):
            value = value.get(token)
        elif isinstance(value, list) and is_index(token) and int(token) < len(value):
            value = value[int(token)]
        else:
            return None
    return value


def dataset_request(
    name: str, samples: Sequence[Sample], like: DatasetManifest, seed: Seed
) -> BuildRequest:
    """Return the request that builds an arm's dataset; its version is a digest of its content.

    Args:
        name: name of the dataset.
        samples: its traces, in order.
        like: the seed dataset, of which it has the recipe and the instruction.
        seed: seed of the chain.
    """
    identity = {
        "recipe": like.recipe,
        "instruction": like.instruction,
        "seed": seed,
        "samples": [sample.id for sample in samples],
    }
    digest = hashlib.sha256(jsonl.dump_line(identity)).hexdigest()
    return BuildRequest(
        dataset_name=name,
        dataset_version=digest[:12],
        recipe=like.recipe,
        instruction=like.instruction,
        limit=len(samples),
        seed=seed,
        parent_dataset_id=like.build_id,
    )


def publish_dataset(request: BuildRequest, samples: Sequence[Sample], artifacts: str) -> str:
    """Publish an arm's dataset, or find that it is published; return its key."""
    rows = [row_of_payload(sample.id, CREATED_AT, sample.line) for sample in samples]

    @contextmanager
    def select(seed: int) -> Iterator[Selection]:
        yield Selection(len(rows), iter(rows))

    manifest, _ = build(
        select, request, artifacts, now=datetime.now(UTC), new_seed=lambda: request.seed or 0
    )
    return manifest.dataset_key
