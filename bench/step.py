"""Time of a training step of the demo's model; compared with a bare jitted loop.

Both use the demo's shapes and traces, in alternating rounds. The first steps, which include the
compilation, are not counted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import optax
from figure import print_figure, sized
from flax import nnx

from tuneloop.demo.loop import SEED, TINY
from tuneloop.demo.tasks import demo_traces
from tuneloop.runs.spec_file import load_run_spec
from tuneloop.specs.architecture import Architecture
from tuneloop.specs.model import RandomModelSpec
from tuneloop.specs.training import TrainSpec
from tuneloop.training.data.batches import Rows
from tuneloop.training.data.encoding import ChatEncoder, encode_blocks
from tuneloop.training.data.table import TokenTable, join_blocks
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.prompt_templates import RECIPES
from tuneloop.training.schema import TrainingExample
from tuneloop.training.sft import distributed, loop
from tuneloop.training.sft.callbacks import SftOptions
from tuneloop.training.sft.trainer import NEVER
from tuneloop.training.step import loss, optimizers
from tuneloop.training.text.chat_format import load_chat_format
from tuneloop.training.text.tokenizers import TOKENIZER_MODEL
from tuneloop.training.text.trainer import tokenizer_sentences, train_tokenizer

ROUNDS = sized(3, 1)
STEPS = sized(20, 3)


def inputs(spec: TrainSpec) -> tuple[TokenTable, int]:
    """Return the demo's token table and vocabulary size."""
    recipe = RECIPES["trace_sft_v1"]
    examples = [
        TrainingExample(
            id=str(number),
            prompt=recipe.render_prompt(trace["prompt"], TINY.instruction),
            response=recipe.render_response(
                [step["content"] for step in trace["steps"]], trace["final_answer"]
            ),
        )
        for number, trace in enumerate(demo_traces(2000, SEED))
    ]
    tokenizer = train_tokenizer(tokenizer_sentences(examples, None), spec.tokenizer)
    chat_format = load_chat_format({TOKENIZER_MODEL: tokenizer}, place="bench")
    blocks = encode_blocks(
        (("demo", example) for example in examples),
        ChatEncoder(chat_format, None),
        max_length_tokens=spec.max_length_tokens,
    )
    table = join_blocks(blocks, pad_id=chat_format.pad_id)
    return table, chat_format.tokenizer.vocab_size


def _architecture(spec: TrainSpec, vocab_size: int) -> Architecture:
    assert isinstance(spec.model, RandomModelSpec)
    return random_architecture(spec.model, vocab_size)


def ours(spec: TrainSpec, table: TokenTable, vocab_size: int) -> float:
    """Return the median step time of `run_sft`."""
    model = build_random_model(_architecture(spec, vocab_size), SEED)
    with tempfile.TemporaryDirectory() as folder:
        options = SftOptions(
            spec,
            seed=SEED,
            resume_prefix=folder,
            checkpoint_every_steps=NEVER,
            process_group=distributed.join(spec.mesh),
        )
        progress = loop.run_sft(model, table, options)
    return statistics.median(row.step_seconds for row in progress.metrics[2:])


def bare(spec: TrainSpec, table: TokenTable, vocab_size: int) -> float:
    """Return the median step time of only value_and_grad and the same optimizer."""
    graph, params = nnx.split(build_random_model(_architecture(spec, vocab_size), SEED))
    optimizer = optimizers.build_optimizer(spec.optimizer, STEPS)
    state = optimizer.init(params)

    def loss_of(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        total, count = loss.token_losses(nnx.merge(graph, params), loss.model_inputs(batch))
        return total / count

    def step(params: Any, state: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss_of)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    compiled: Callable[..., Any] = jax.jit(step, donate_argnums=(0, 1))
    rows = Rows(table, spec, batch_size=spec.batch_size)
    times = []
    for number in range(STEPS):
        since = time.perf_counter()
        batch = rows.batch_at(number, seed=SEED)
        params, state, value = compiled(params, state, batch.arrays())
        value.block_until_ready()
        times.append(time.perf_counter() - since)
    return statistics.median(times[2:])


def main() -> None:
    """Measure both alternately and print medians."""
    spec = load_run_spec(TINY.config).train.model_copy(update={"steps": STEPS})
    table, vocab_size = inputs(spec)
    pairs = [(ours(spec, table, vocab_size), bare(spec, table, vocab_size)) for _ in range(ROUNDS)]
    print_figure("step", "s", pairs)


if __name__ == "__main__":
    main()
