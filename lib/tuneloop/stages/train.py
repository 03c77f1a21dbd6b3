"""Train: examples -> tokenizer, base model, tuned model, metrics. Real Tunix SFT."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from tuneloop.artifacts.results import TrainCounts, TrainResults
from tuneloop.errors import SpecError, Transient
from tuneloop.specs.model import RandomModelSpec
from tuneloop.specs.stages import TrainStage
from tuneloop.stages.context import Stage
from tuneloop.storage import files, lines, paths
from tuneloop.training.chat_templates import chat_template_named
from tuneloop.training.export.files import text_blocks
from tuneloop.training.models import model_files
from tuneloop.training.models.families import gemma3
from tuneloop.training.models.parameters import flat_params
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.models.registry import family_named
from tuneloop.training.schema import TrainingExample, parse_example
from tuneloop.training.sft import batches, distributed, loop, metrics, tensorboard
from tuneloop.training.sft.batches import LengthReport, TokenTable
from tuneloop.training.sft.callbacks import SftOptions
from tuneloop.training.sft.earlier import EarlierRun, check_same_examples, find_earlier_run
from tuneloop.training.text import encode
from tuneloop.training.text.sentencepiece_tokenizer import load_tokenizer
from tuneloop.training.text.trainer import PAD_ID, train_tokenizer

TRAINING, VALIDATION = "examples-", "validation-"
"""First parts of the names of the export's files."""


@dataclass(frozen=True)
class Prepared:
    """The inputs of the training loop."""

    table: TokenTable
    validation: TokenTable | None
    """Encoded validation examples; None without validation, or if the export has none."""
    lengths: LengthReport
    vocab_size: int
    model: Any
    """The base model, which training changes in place."""
    base_digest: str


def run(spec: TrainStage, stage: Stage) -> None:
    """Train the tokenizer, draw the base model, tune it, and write both models.

    In a process group every process does all of this, and the first one writes.
    """
    group = distributed.join()
    stage.at_end = lambda: group.meet("the record is published")
    earlier = find_earlier_run(
        spec.options,
        seed=spec.seed,
        system_instruction=spec.system_instruction,
        artifacts=stage.artifacts,
    )
    check_same_examples(spec.options, stage.upstream("export"), stage.artifacts)
    prepared = _prepare(spec, stage)
    steps = batches.total_steps(spec.options, len(prepared.table))

    def report(row: metrics.StepMetrics) -> None:
        stage.holds_unsaved_work = True
        stage.progress(row.step, steps, loss=round(row.loss, 4))

    options = SftOptions(
        spec.options,
        seed=spec.seed,
        resume_prefix=paths.join(stage.prefix, "resume"),
        checkpoint_every_steps=spec.execution.checkpoint_every_steps,
        process_group=group,
        report=report,
        should_stop=stage.should_stop,
    )
    progress = loop.run_sft(
        prepared.model, prepared.table, options, validation=prepared.validation, earlier=earlier
    )
    if not progress.finished:
        stage.holds_unsaved_work = False  # the checkpoint is stored, or cannot be
        step = progress.checkpoint_step
        saved = f"checkpoint of step {step} saved" if step else "no checkpoint saved"
        raise Transient(
            f"stage train: stopped by a signal after step {len(progress.metrics)} of {steps},"
            f" {saved}; run again to continue"
        )
    tuned = model_files.dump_weights(prepared.model)
    stage.write_output(model_files.TUNED_WEIGHTS, tuned)
    stage.write_output("metrics.jsonl", metrics.dump_metrics(progress.history), has_timings=True)
    events = tensorboard.dump_events(progress.history, time.time())
    stage.write_output(tensorboard.EVENTS, events, has_timings=True)
    _fill_record(stage, prepared, progress, earlier, hashlib.sha256(tuned).hexdigest())


def _prepare(spec: TrainStage, stage: Stage) -> Prepared:
    """Encode the examples, draw the base model, and write everything but the tuned weights."""
    options = spec.options
    if not isinstance(options.model, RandomModelSpec):
        raise SpecError("train.model: pretrained models are not supported yet; use kind: random")
    family = family_named(options.model.family)
    sample = (e for _, e in islice(_examples(stage), options.tokenizer.sample_examples))
    tokenizer_model = train_tokenizer(
        encode.tokenizer_sentences(sample, spec.system_instruction), options.tokenizer
    )
    tokenizer = load_tokenizer(tokenizer_model)
    vocab_size = tokenizer.get_piece_size()
    template = chat_template_named(family.chat_template)
    build_table = partial(
        batches.build_token_table,
        encode=lambda example: encode.encode_example(
            tokenizer, example, spec.system_instruction, template
        ),
        pad_id=PAD_ID,
        max_length_tokens=options.max_length_tokens,
    )
    table, lengths = build_table(_examples(stage))
    validation = None
    if options.validation is not None and _has_rows(stage, VALIDATION):
        validation, _ = build_table(_examples(stage, VALIDATION))
    stage.write_output(model_files.TOKENIZER, tokenizer_model)
    architecture = gemma3.architecture_of(options.model, vocab_size)
    stage.write_output(model_files.DESCRIPTION, model_files.dump_description(architecture))
    model = build_random_model(architecture, spec.seed)
    base = model_files.dump_weights(model)
    stage.write_output(model_files.BASE_WEIGHTS, base)
    return Prepared(table, validation, lengths, vocab_size, model, hashlib.sha256(base).hexdigest())


def _fill_record(
    stage: Stage,
    prepared: Prepared,
    progress: loop.Progress,
    earlier: EarlierRun | None,
    tuned_digest: str,
) -> None:
    lengths = prepared.lengths
    counts = TrainCounts(
        examples=lengths.examples,
        tokens=lengths.tokens,
        trained_tokens=lengths.trained_tokens,
        longest_tokens=lengths.longest_tokens,
        longest_response_tokens=lengths.longest_response_tokens,
        vocab_size=prepared.vocab_size,
        parameters=sum(array.size for array in flat_params(prepared.model).values()),
        steps=len(progress.metrics),
        resumed_from_step=progress.resumed_from,
        continued_from_step=0 if earlier is None else earlier.step,
        validation_examples=0 if prepared.validation is None else len(prepared.validation),
        kept_step=progress.kept_step,
    )
    losses = progress.history.validation_losses
    best = progress.history.best_step()
    results = TrainResults(
        loss_first=progress.metrics[0].loss,
        loss_last=progress.metrics[-1].loss,
        validation_loss_first=losses.get(0),
        validation_loss_last=losses.get(len(progress.metrics)),
        validation_loss_best=None if best is None else losses[best],
        best_step=best,
        stopped_early=progress.stopped_early,
        base_digest=prepared.base_digest,
        tuned_digest=tuned_digest,
    )
    stage.set_results(counts, results)


def _has_rows(stage: Stage, prefix: str) -> bool:
    return any(file.rows for file in stage.upstream("export").outputs_like(prefix))


def _examples(stage: Stage, prefix: str = TRAINING) -> Iterator[tuple[str, TrainingExample]]:
    """Stream (place, example) from every shard of the export, verified."""
    for file in stage.upstream("export").outputs_like(prefix):
        place = paths.join(stage.artifacts, file.path)
        stored = files.iter_verified(place, file.size_bytes, file.sha256)
        found = lines.iter_lines(text_blocks(file.name, stored))
        for number, line in enumerate(found, start=1):
            at = f"{place}:{number}"
            yield at, parse_example(line, at)
