"""One process of a group that trains the tiny model on several meshes, one after the other.

Run as `python -m tests.training.sft.mesh_worker FOLDER CELL ...` in each process of the group. A
cell is a method, `packed` or `padded`, and the sizes of data, fsdp and tp: `lora-packed-1-2-2`.
Process 0 writes the losses as FOLDER/losses.json. With SEED_BY_PROCESS in the environment, every
process draws batches with a seed of its own.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from pydantic import TypeAdapter

from tests.builders import METHODS
from tests.training.tiny import SPEC, architecture, build_table
from tuneloop.errors import DataError
from tuneloop.specs.training.mesh import MeshSpec
from tuneloop.specs.training.method import LoraMethod, MethodSpec
from tuneloop.training.models.lora.apply import apply_lora
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.schema import TrainingExample
from tuneloop.training.sft import distributed, loop
from tuneloop.training.sft.callbacks import SftOptions
from tuneloop.training.step.mesh import build_mesh
from tuneloop.training.text.chat_format import ChatFormat, load_chat_format
from tuneloop.training.text.trainer import tokenizer_sentences, train_tokenizer

STEPS = 20
EXAMPLES = [
    # The longest fills a row of 48 tokens, so that padded and packed batches have the same shape,
    # which is compiled once.
    TrainingExample(id=str(n), prompt=f"Say {'abcd'[n % 4]}", response=f"{'abcd'[n % 4]}" * length)
    for n, length in enumerate((*range(1, 9), 235) * 12)
]


def make_chat_format() -> ChatFormat:
    model = train_tokenizer(tokenizer_sentences(EXAMPLES, None), SPEC.tokenizer)
    return load_chat_format({"tokenizer.model": model}, place="tiny")


def train(cell: str, group: distributed.ProcessGroup, folder: Path, seed: int = 0) -> list[float]:
    """Train one cell; returns the losses."""
    kind, rows, *sizes = cell.split("-")
    data, fsdp, tp = map(int, sizes)
    if group.mesh is not None:
        mesh = MeshSpec(data=data, fsdp=fsdp, tp=tp)
        devices = jax.devices()[: data * fsdp * tp]
        alone = len(devices) == 1
        group = replace(group, mesh=None if alone else build_mesh(mesh, devices))
    method: Any = TypeAdapter(MethodSpec).validate_python({"kind": kind, **METHODS[kind]})
    spec = SPEC.model_copy(update={"steps": STEPS, "method": method, "packing": rows == "packed"})
    chat_format = make_chat_format()
    shape = architecture(chat_format.tokenizer.vocab_size)
    model: Any = build_random_model(shape, 0)
    if isinstance(method, LoraMethod):
        model = apply_lora(model, shape, method, seed=0)
    options = SftOptions(
        spec,
        seed=seed,
        resume_prefix=str(folder / cell),
        checkpoint_every_steps=STEPS,
        process_group=group,
    )
    table = build_table(chat_format, EXAMPLES)
    return [row.loss for row in loop.run_sft(model, table, options).metrics]


def main(folder: Path, cells: list[str]) -> int:
    """Train all cells; returns the exit code."""
    group = distributed.join(MeshSpec())
    seed = jax.process_index() if "SEED_BY_PROCESS" in os.environ else 0
    try:
        losses = {cell: train(cell, group, folder, seed) for cell in cells}
    except DataError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    if jax.process_index() == 0:
        (folder / "losses.json").write_text(json.dumps(losses))
    group.meet("the losses are written")
    return 0


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), sys.argv[2:])
    sys.stderr.flush()
    os._exit(code)
