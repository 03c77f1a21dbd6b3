"""The generated answers that each shard of a stage leaves for the merge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from tuneloop import jsonl
from tuneloop.artifacts import records
from tuneloop.artifacts.records import Record
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.lifecycle.context import Stage

PREFIX, SUFFIX = "generations_", ".jsonl"
"""Parts of the names of the files around the name of a pass; rows hold the number of the answer and
the answer."""

Found = dict[str, dict[int, Generation]]
"""Name of a pass -> number of the answer -> the answer."""


def write_shard(stage: Stage, found: Mapping[str, Mapping[int, Generation]]) -> None:
    """Write the answers of this process, one file for each pass."""
    for name, generations in found.items():
        with stage.output(f"{PREFIX}{name}{SUFFIX}") as output:
            for number, generation in generations.items():
                output.write_row(jsonl.dump_line({"item": number, **asdict(generation)}))


def read_shards(stage: Stage, shards: Sequence[Record]) -> Found:
    """Read the answers of all processes."""
    found: Found = {}
    for shard in shards:
        for file in shard.outputs_like(PREFIX):
            name = file.name.removeprefix(PREFIX).removesuffix(SUFFIX)
            rows = records.read_output(file, stage.artifacts).splitlines()
            for row in map(json.loads, rows):
                number = row.pop("item")
                found.setdefault(name, {})[number] = Generation(**row)
    return found
