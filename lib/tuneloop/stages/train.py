"""Train: examples -> tuned model, metrics. Real Tunix SFT, from stored or random weights."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from msgspec import UNSET

from tuneloop import jsonl, provenance
from tuneloop.artifacts import layout
from tuneloop.artifacts.results import ExportCounts, ParityResult, TrainCounts, TrainResults
from tuneloop.artifacts.token_manifest import TokenManifest, read_token_manifest
from tuneloop.errors import DataError, SpecError, Transient
from tuneloop.specs.stages import TrainStage, dump_stage_spec
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import LoraMethod
from tuneloop.specs.training.model import RandomModelSpec
from tuneloop.stages.exported import TRAINING, VALIDATION, has_rows, iter_examples
from tuneloop.stages.lifecycle.command import peak_flops_per_second
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.models import kept_steps, tuned
from tuneloop.stages.models.base import BaseModel, draw_random, open_stored
from tuneloop.storage import files, paths
from tuneloop.training.data.encoding import Block, ChatEncoder, count_processes, encode_blocks
from tuneloop.training.data.table import TokenTable
from tuneloop.training.data.token_file import open_token_file, write_token_file
from tuneloop.training.models.lora.apply import apply_lora
from tuneloop.training.sft import distributed, loop, metrics, tensorboard
from tuneloop.training.sft.callbacks import SftOptions
from tuneloop.training.sft.distributed import ProcessGroup
from tuneloop.training.sft.earlier import EarlierRun, check_same_examples, find_earlier_run
from tuneloop.training.sft.utilization import Utilization
from tuneloop.training.step.mesh import sizes_of
from tuneloop.training.text.chat_format import ChatFormat, check_prefix_property

PREFIX_SAMPLES = 16
"""Training examples on which the prefix property is checked before the first step."""
POLL_SECONDS = 1.0
"""Seconds between looks for a token file that another process writes."""


@dataclass(frozen=True)
class Data:
    """The encoded examples."""

    table: TokenTable
    validation: TokenTable | None
    """Validation examples; None without validation, or if the export has none."""
    lengths: TokenManifest
    """Statistics of the training examples."""
    validation_lengths: TokenManifest | None
    """The same of the validation examples."""


def run(spec: TrainStage, stage: Stage) -> None:
    """Open or draw the base model, encode the examples, tune the model, and publish it.

    In a process group every process does all of this, and the first one writes.
    """
    group = distributed.join(spec.options.mesh)
    stage.at_end = lambda: group.meet("the record is published")
    # Before anything whose order of collective calls depends on them; processes would wait forever.
    group.check_same(stage_spec=dump_stage_spec(spec).decode(), code=_code())
    earlier = find_earlier_run(
        spec.options,
        seed=spec.seed,
        system_instruction=spec.system_instruction,
        artifacts=stage.artifacts,
    )
    check_same_examples(spec.options, stage.upstream("export"), stage.artifacts)
    base = _base_model(spec, stage, group)
    sizes_of(group.mesh).check_architecture(base.architecture)
    group.check_same(base_model=base.manifest.digest, chat_format=base.chat_format.digest)
    data = _encode(spec, stage, base.chat_format)
    held_out = data.validation_lengths
    group.check_same(
        training_examples=data.lengths.digest,
        validation_examples=held_out.digest if held_out else "",
    )
    model = _trainable(spec, base)
    kept: dict[int, str] = {}
    progress = _train(model, base, data, spec, stage, group, earlier, kept)
    seconds = [row.step_seconds for row in progress.metrics[earlier.step if earlier else 0 :]]
    stage.useful_seconds, stage.step_seconds = sum(seconds), statistics.median(seconds or [0.0])
    model, adapters = tuned.take_adapters(model, base, spec)
    stage.write_output("metrics.jsonl", metrics.dump_metrics(progress.history), has_timings=True)
    events = tensorboard.dump_events(progress.history, time.time())
    stage.write_output(tensorboard.EVENTS, events, has_timings=True)
    counts, results = _counts(base, data, progress, earlier), _results(base, progress)
    exported = stage.upstream("export").counts_as(ExportCounts)
    facts = tuned.model_card(spec, base, exported, counts, results)
    manifest, readers = tuned.publish(model, adapters, base, spec, stage, facts)
    found = {
        "tuned_digest": manifest.weights_sha256,
        "tuned_model_digest": manifest.digest,
        "checkpoints": kept,
        "parity": [ParityResult(**asdict(reader)) for reader in readers],
    }
    stage.set_results(counts, results.model_copy(update=found))


def _code() -> str:
    """Describe the code that this process runs."""
    found = provenance.gather()
    return str([found["code_sha256"], found["python"], found["libraries"]])


def _train(
    model: Any,
    base: BaseModel,
    data: Data,
    spec: TrainStage,
    stage: Stage,
    group: ProcessGroup,
    earlier: EarlierRun | None,
    kept: dict[int, str],
) -> loop.Progress:
    """Train the model in place; raises Transient if a signal stops it.

    The digests of kept steps are put into `kept`.
    """

    def report(row: metrics.StepMetrics, total_steps: int) -> None:
        if not stage.holds_unsaved_work:
            stage.note_first_step(row.step)
        stage.holds_unsaved_work = True
        stage.progress(row.step, total_steps, loss=round(row.loss, 4))
        stage.on_metrics(asdict(row))

    def report_validation(step: int, loss: float) -> None:
        stage.on_metrics({"step": step, "validation_loss": loss})

    def publish_step(step: int, trained: Any) -> None:
        kept[step] = kept_steps.publish_step(trained, step, base, spec, stage)

    options = SftOptions(
        spec.options,
        seed=spec.seed,
        resume_prefix=paths.join(stage.prefix, "resume"),
        checkpoint_every_steps=spec.execution.checkpoint_every_steps,
        process_group=group,
        report=report,
        report_validation=report_validation,
        should_stop=stage.should_stop,
        publish_step=publish_step,
        utilization=_utilization(base.architecture, spec, group),
        profiler=spec.execution.profiler,
        # Not an output: it tells about this machine, and a run is the same with and without it.
        profile_url=paths.join(stage.prefix, "profile"),
    )
    progress = loop.run_sft(model, data.table, options, validation=data.validation, earlier=earlier)
    steps_done = len(progress.metrics)
    stage.holds_unsaved_work = progress.finished and progress.checkpoint_step < steps_done
    if not progress.finished:
        step = progress.checkpoint_step
        saved = f"checkpoint of step {step} saved" if step else "no checkpoint saved"
        raise Transient(
            f"stage train: stopped by a signal after step {steps_done} of"
            f" {progress.total_steps}, {saved}; run again to continue"
        )
    return progress


def _utilization(
    architecture: Architecture, spec: TrainStage, group: ProcessGroup
) -> Utilization | None:
    """Return what computes the MFU; None if the devices' peak rate is unknown."""
    peak = peak_flops_per_second(os.environ)
    if peak is None:
        return None
    return Utilization(architecture, spec.options.method, group.device_count * peak)


def _base_model(spec: TrainStage, stage: Stage, group: ProcessGroup) -> BaseModel:
    if spec.model is not None:
        return open_stored(spec.model, spec.options, group)
    if not isinstance(spec.options.model, RandomModelSpec):
        raise SpecError(
            "train.model: the stage spec of a pretrained model has no reference to it, expected"
            " `model` with name, folder and digest; plan the run again"
        )
    examples = (example for _, example in iter_examples(stage, TRAINING))
    return draw_random(spec, spec.options.model, examples, stage)


def _encode(spec: TrainStage, stage: Stage, chat_format: ChatFormat) -> Data:
    """Encode training and validation examples, and check that generation starts alike."""
    encoder = ChatEncoder(chat_format, spec.system_instruction)
    check_prefix_property(chat_format, _samples(stage), spec.system_instruction)
    table, lengths = _open_tokens(TRAINING, encoder, spec, stage)
    validation, validation_lengths = None, None
    if spec.options.validation is not None and has_rows(stage, VALIDATION):
        validation, validation_lengths = _open_tokens(VALIDATION, encoder, spec, stage)
    return Data(table, validation, lengths, validation_lengths)


def _open_tokens(
    prefix: str, encoder: ChatEncoder, spec: TrainStage, stage: Stage
) -> tuple[TokenTable, TokenManifest]:
    """Open the token file of the export's files with this prefix.

    If it does not exist yet, the first process writes it, and the others wait. They do not wait in
    a collective call, which could time out. If the first process fails, JAX ends the others.
    """
    identity = {
        "examples": [file.sha256 for file in stage.upstream("export").outputs_like(prefix)],
        "encoder": encoder.digest,
        "max_length_tokens": spec.options.max_length_tokens,
    }
    digest = hashlib.sha256(jsonl.dump_line(identity)).hexdigest()
    folder = layout.token_folder(stage.artifacts, digest)
    if stage.process_index == 0:
        # Two runs on one machine do not encode the same examples at the same time.
        with files.exclusive(paths.join(folder, "lock"), stage.should_stop):
            if read_token_manifest(folder) is None:
                blocks = _encoded(prefix, encoder, spec, stage)
                write_token_file(folder, blocks, attempt=stage.attempt)
    while read_token_manifest(folder) is None:
        stage.check_stop()
        time.sleep(POLL_SECONDS)
    return open_token_file(folder, pad_id=encoder.chat_format.pad_id, should_stop=stage.should_stop)


def _encoded(prefix: str, encoder: ChatEncoder, spec: TrainStage, stage: Stage) -> Iterator[Block]:
    found = stage.upstream("export").outputs_like(prefix)
    for block in encode_blocks(
        iter_examples(stage, prefix),
        encoder,
        max_length_tokens=spec.options.max_length_tokens,
        processes=count_processes(sum(file.rows or 0 for file in found)),
    ):
        stage.check_stop()
        yield block


def _samples(stage: Stage) -> Iterator[tuple[str, str]]:
    for number, (_, example) in enumerate(iter_examples(stage, TRAINING)):
        if number == PREFIX_SAMPLES:
            return
        if example.conversation is UNSET:  # others are checked whenever they are encoded
            yield example.prompt, example.response


def _trainable(spec: TrainStage, base: BaseModel) -> Any:
    """Load the model, with adapters if these are what is trained."""
    model = base.load()
    method = spec.options.method
    if isinstance(method, LoraMethod):
        return apply_lora(model, base.architecture, method, spec.seed)
    return model


def _counts(
    base: BaseModel, data: Data, progress: loop.Progress, earlier: EarlierRun | None
) -> TrainCounts:
    lengths = data.lengths
    return TrainCounts(
        examples=lengths.examples,
        tokens=lengths.tokens,
        trained_tokens=lengths.trained_tokens,
        longest_tokens=lengths.longest_tokens,
        longest_response_tokens=lengths.longest_response_tokens,
        vocab_size=base.architecture.vocab_size,
        parameters=base.manifest.parameters,
        steps=len(progress.metrics),
        resumed_from_step=progress.resumed_from,
        continued_from_step=0 if earlier is None else earlier.step,
        validation_examples=0 if data.validation is None else len(data.validation),
        kept_step=progress.kept_step,
    )


def _results(base: BaseModel, progress: loop.Progress) -> TrainResults:
    if not progress.metrics:
        raise DataError("stage train: no step was made, expected at least one; raise train.steps")
    losses = progress.history.validation_losses
    best = progress.history.best_step()
    return TrainResults(
        loss_first=progress.metrics[0].loss,
        loss_last=progress.metrics[-1].loss,
        validation_loss_first=losses.get(0),
        validation_loss_last=losses.get(len(progress.metrics)),
        validation_loss_best=None if best is None else losses[best],
        best_step=best,
        stopped_early=progress.stopped_early,
        base_digest=base.manifest.weights_sha256,
        base_model_digest=base.manifest.digest,
        tuned_digest="",
    )
