"""Time of a training step through `run_sft`; compared with the same jitted step in a bare loop.

Both train the demo's model, for which a step takes a fraction of a second. They take turns of a few
steps in one process; the first steps of a turn are not counted. The bare loop has its batches on
the device, and dispatches a step while the one before runs. The last line is the share of a step
that `run_sft` waits for its batch, beside the limit of 2 %.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from figure import print_figure, sized
from flax import nnx

from tuneloop.demo.loop import SEED, TINY
from tuneloop.demo.tasks import demo_traces
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.model import RandomModelSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.data.batches import Rows
from tuneloop.training.data.encoding import ChatEncoder, encode_blocks
from tuneloop.training.data.table import TokenTable, join_blocks
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.prompt_templates import RECIPES
from tuneloop.training.schema import TrainingExample
from tuneloop.training.sft import distributed, loop
from tuneloop.training.sft.callbacks import SftOptions
from tuneloop.training.sft.metrics import StepMetrics
from tuneloop.training.sft.trainer import NEVER
from tuneloop.training.step import optimizers
from tuneloop.training.step.update import StepOptions, update
from tuneloop.training.text.chat_format import load_chat_format
from tuneloop.training.text.tokenizers import TOKENIZER_MODEL
from tuneloop.training.text.trainer import tokenizer_sentences, train_tokenizer

TURNS = sized(10, 1)
TURN_STEPS = sized(7, 4)
SKIPPED = 2
"""First steps of a turn, which wait for the last ones of the other loop."""
DATA_WAIT_LIMIT = 0.02


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
        for number, trace in enumerate(demo_traces(sized(2000, 200), SEED))
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


class BareLoop:
    """The update of `run_sft` in a loop that does nothing else."""

    def __init__(self, spec: TrainSpec, table: TokenTable, vocab_size: int) -> None:
        """Compile the step, and put the batches of a turn on the device."""
        model = build_random_model(_architecture(spec, vocab_size), SEED)
        built = optimizers.build_optimizer(spec.optimizer, TURNS * TURN_STEPS)
        graph, self._state = nnx.split((model, nnx.Optimizer(model, built, wrt=nnx.Param)))
        options = StepOptions.from_spec(spec, SEED, None)

        def step(state: Any, batch: dict[str, jax.Array]) -> tuple[Any, jax.Array]:
            model, optimizer = nnx.merge(graph, state)
            loss, _, _ = update(model, optimizer, batch, options=options)
            return nnx.state((model, optimizer)), loss

        self._step: Callable[..., Any] = jax.jit(step, donate_argnums=0)
        rows = Rows(table, spec, batch_size=spec.batch_size)
        arrays = [rows.batch_at(number, seed=SEED).arrays(1) for number in range(TURN_STEPS)]
        self._batches = [jax.device_put(each) for each in arrays]

    def take_turn(self) -> float:
        """Return the median time of the steps of a turn."""
        ended, before = [], None
        for batch in self._batches:
            self._state, loss = self._step(self._state, batch)
            if before is not None:
                before.block_until_ready()
                ended.append(time.perf_counter())
            before = loss
        loss.block_until_ready()
        ended.append(time.perf_counter())
        return median_time(ended)


def median_time(ended: list[float]) -> float:
    """Return the median time of the steps of a turn, from the times at which they ended."""
    laps = [later - earlier for earlier, later in itertools.pairwise(ended)]
    return statistics.median(laps[SKIPPED - 1 :])


def main() -> None:
    """Let both loops take turns, and print medians."""
    spec = load_run_spec(TINY.config).train
    size = spec.batch_size
    spec = spec.model_copy(update={"steps": TURNS * TURN_STEPS, "batch_size": sized(size, 8)})
    table, vocab_size = inputs(spec)
    bare = BareLoop(spec, table, vocab_size)
    pairs: list[tuple[float, float]] = []
    ended: list[float] = []

    def report(row: StepMetrics, total_steps: int) -> None:
        ended.append(time.perf_counter())
        if len(ended) == TURN_STEPS:
            pairs.append((median_time(ended), bare.take_turn()))
            ended.clear()

    with tempfile.TemporaryDirectory() as folder:
        options = SftOptions(
            spec,
            seed=SEED,
            resume_prefix=folder,
            checkpoint_every_steps=NEVER,
            process_group=distributed.join(spec.mesh),
            report=report,
        )
        model = build_random_model(_architecture(spec, vocab_size), SEED)
        rows = loop.run_sft(model, table, options).metrics
    print_figure("step", "s", pairs, paired=True)
    step = statistics.median(seconds for seconds, _ in pairs)
    waits = [((row.data_wait_seconds or 0.0) / step, DATA_WAIT_LIMIT) for row in rows]
    print_figure("step_data_wait", "share of a step", waits)


if __name__ == "__main__":
    main()
