"""Convert traces to examples, file to file; compared with reading and writing by pydantic.

Both programs read a dataset shard of 1.2 kB rows, validate and render the rows, name each example
by uuid5, and write lines with a running sha256. The script measures CPU seconds of one process in
alternating rounds, so that other work on the machine matters less. The second figure includes the
search for duplicates and the contamination check against the eval set.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from figure import print_figure, sized
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tuneloop.datasets.build import build
from tuneloop.datasets.read import dataset_prefix, iter_row_range
from tuneloop.datasets.schema import (
    BuildRequest,
    DatasetManifest,
    Selection,
    TraceRow,
)
from tuneloop.specs.export import ExportSpec
from tuneloop.storage import files
from tuneloop.traces.fast import StoredStep
from tuneloop.traces.response_text import render_response
from tuneloop.training.export.decontamination import ContaminationIndex
from tuneloop.training.export.examples import EXAMPLE_NAMESPACE, builder_of
from tuneloop.training.export.exporter import ShardExporter
from tuneloop.training.export.index import IndexedFile

ROWS = sized(50_000, 500)
ROUNDS = sized(5, 1)
EVAL_PROMPTS = sized(200, 20)
PLAIN = ExportSpec(duplicates="keep", contamination="off")
CHECKED = ExportSpec()


def words(rng: random.Random, characters: int) -> str:
    """Return text with few repetitions."""
    picked = (f"w{rng.randrange(5000)}" for _ in range(characters // 6 + 1))
    return " ".join(picked)[:characters].strip()


def rows() -> Iterator[TraceRow]:
    """Make rows of 1.2 kB: a prompt of 200 characters, five steps of 100, and some metadata."""
    rng = random.Random(0)
    for number in range(ROWS):
        steps = [StoredStep(content=words(rng, 100), i=i, type="reason") for i in range(5)]
        meta = {
            name: msgspec.Raw(value)
            for name, value in ((("source"), b'"bench"'), ("number", str(number).encode()))
        }
        created_at = f"2026-11-22T11:22:10.{number:06d}Z"
        trace_id = str(uuid.UUID(int=number))
        yield TraceRow(
            created_at=created_at,
            final_answer=words(rng, 20),
            id=trace_id,
            meta=meta,
            prompt=words(rng, 200),
            steps=steps,
            trace_version="1.0",
        )


def make_dataset(folder: str) -> DatasetManifest:
    """Write a dataset with one shard of rows."""
    return build(
        lambda seed: contextlib.nullcontext(Selection(ROWS, rows())),
        BuildRequest(
            dataset_name="bench",
            dataset_version="v1",
            instruction="Show your work as steps",
            limit=ROWS,
        ),
        folder,
        now=datetime.now(UTC),
        new_seed=lambda: 0,
    )[0]


def eval_set() -> ContaminationIndex:
    """Make prompts of 250 characters; a process reads them only once, so this is not timed."""
    rng = random.Random(1)
    return ContaminationIndex({str(n): words(rng, 250) for n in range(EVAL_PROMPTS)})


def ours(
    manifest: DatasetManifest,
    folder: str,
    rules: ExportSpec,
    contamination: ContaminationIndex | None,
) -> None:
    """Process a shard as the export stage does."""
    exporter = ShardExporter(builder_of(manifest), rules, contamination, None)
    with files.Writer(f"{folder}/ours.jsonl") as writer:
        file = IndexedFile(writer.write)
        for block in iter_row_range(manifest, folder, 0, ROWS):
            file.add(exporter.add(block.line - 1, block)["train"])
        writer.close()


class Step(BaseModel):
    """A step, as a pydantic model."""

    i: int
    type: str
    content: str


class Row(BaseModel):
    """A row, as a pydantic model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    created_at: str
    trace_version: str
    prompt: str
    final_answer: str
    steps: list[Step]
    meta: dict[str, JsonValue] | None


class Example(BaseModel):
    """An example, as a pydantic model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    prompt: str = Field(min_length=1)
    response: str = Field(min_length=1)
    metadata: dict[str, JsonValue] = {}


def rival(manifest: DatasetManifest, folder: str) -> None:
    """Process a shard with pydantic for reading and writing."""
    shard = f"{dataset_prefix(folder, manifest.dataset_key)}/{manifest.shards[0].path}"
    sha256 = hashlib.sha256()
    with open(shard, "rb") as lines, open(f"{folder}/rival.jsonl", "wb") as file:
        for line in lines:
            row = Row.model_validate_json(line)
            name = f"{manifest.build_id}/{row.id}/{manifest.recipe}"
            example = Example(
                id=str(uuid.uuid5(EXAMPLE_NAMESPACE, name)),
                prompt=f"{row.prompt}\n\n{manifest.instruction}",
                response=render_response([step.content for step in row.steps], row.final_answer),
                metadata={
                    **(row.meta or {}),
                    "source_trace_id": row.id,
                    "trace_version": row.trace_version,
                    "dataset_build_id": manifest.build_id,
                    "recipe": manifest.recipe,
                },
            )
            data = example.model_dump_json().encode() + b"\n"
            sha256.update(data)
            file.write(data)


def rate(work: Callable[[], None]) -> float:
    """Return the examples per CPU second."""
    since = time.process_time()
    work()
    return ROWS / (time.process_time() - since)


def main() -> None:
    """Measure both alternately and print medians."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_dataset(folder)
        size = Path(dataset_prefix(folder, manifest.dataset_key), manifest.shards[0].path)
        print(f"{size.stat().st_size / ROWS:.0f} bytes per row")
        for name, rules, index in (
            ("examples", PLAIN, None),
            ("examples_checked", CHECKED, eval_set()),
        ):
            pairs = []
            for _ in range(ROUNDS):
                mine = rate(lambda: ours(manifest, folder, rules, index))  # noqa: B023
                pairs.append((mine, rate(lambda: rival(manifest, folder))))
            print_figure(name, "examples/s", pairs)


if __name__ == "__main__":
    main()
