"""Evaluate: base, baselines and tuned model on eval sets -> all samples, traces, the report."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tuneloop import jsonl
from tuneloop.artifacts.evaluation.eval_samples import dump_samples, scorer_file
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import TrainResults
from tuneloop.errors import SpecError
from tuneloop.evaluation.traces import build_eval_trace
from tuneloop.specs.stages import EvalStage
from tuneloop.stages.answering import noise, remote
from tuneloop.stages.answering.batch_size import choose_rows, settle
from tuneloop.stages.answering.saved import SavedBatches
from tuneloop.stages.answering.shards import Found, read_shards, write_shard
from tuneloop.stages.eval_passes import Asker, Pass, longest_prompt
from tuneloop.stages.evaluation import kept, samples
from tuneloop.stages.evaluation.candidates import enter_candidate
from tuneloop.stages.evaluation.models import (
    BASE,
    TUNED,
    Asked,
    AskedModel,
    list_asked,
    list_models,
    list_passes,
)
from tuneloop.stages.evaluation.report import write_report
from tuneloop.stages.evaluation.samples import Answer, Answered, Judge
from tuneloop.stages.evaluation.sets import LoadedSet, contamination, load_sets
from tuneloop.stages.evaluation.stability import noise_floor
from tuneloop.stages.evaluation.stopping import ask_until_decided
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.models.evaluated import EvaluatedModel, open_models
from tuneloop.stages.models.in_memory import Devices, choose_models_that_stay
from tuneloop.training.generation.devices import device_count, device_limit_bytes
from tuneloop.training.prompt_templates import recipe_named

log = logging.getLogger("tuneloop.stage")

BEFORE, BEFORE_WITH_EXAMPLES, AFTER = "before", "before_with_examples", "after"
"""Parts of the names of the files of traces."""


def run(spec: EvalStage, stage: Stage) -> None:
    """Generate with all models, score, and write samples, traces and report."""
    if spec.options.stop_early and stage.shard_count > 1:
        raise SpecError(
            f"eval.stop_early: found {stage.shard_count} processes, expected one, because they do"
            " not see one another's answers; set execution.cluster.eval.shard_count to 1"
        )
    models, asked = _what(spec, stage)
    passes, judge = list_passes(spec, stage, asked), Judge(recipe_named(spec.dataset.recipe))
    known = {} if spec.options.stop_early else _known(spec, stage, asked, passes)
    opened = open_models(spec, stage)
    with remote.opened(spec.options.backend, opened, "eval.backend") as served:
        asker = _asker(spec, stage, passes, opened, served)
        if spec.options.stop_early:
            ended = ask_until_decided(spec, stage, asked, passes, asker, judge)
            asked, passes, found = ended.asked, ended.passes, ended.found
            if again := _asked_again(spec, asker, passes):
                found |= asker.ask(again, stage.block)
            asker.forget_models()
        else:
            again = _asked_again(spec, asker, passes)
            found = asker.ask([*passes, *again], stage.block, known)
    if stage.shard_count == 1:
        _assemble(spec, stage, models, asked, passes, found, judge)
    else:
        write_shard(stage, found)


def _asker(
    spec: EvalStage,
    stage: Stage,
    passes: Sequence[Pass],
    opened: Mapping[str, EvaluatedModel],
    served: Mapping[str, remote.RemoteModel],
) -> Asker:
    """Choose the rows of a batch, and the models that stay in memory between chunks."""

    def lengths() -> tuple[int, int]:
        longest = longest_prompt(passes, opened, spec.system_instruction)
        return longest, max(each.max_new_tokens for each in passes)

    architectures = {name: each.architecture for name, each in opened.items()}
    rows = settle(
        spec.options.batch_size,
        stage,
        lambda: choose_rows([*architectures.values()], device_limit_bytes(), *lengths()),
    )
    here = {name: each for name, each in architectures.items() if name not in served}
    stays: frozenset[str] = frozenset()
    if spec.options.stop_early and here:
        devices = Devices(device_limit_bytes(), device_count())
        stays = choose_models_that_stay(here, devices, rows, *lengths())
        if again := [name for name in here if name not in stays]:
            log.info(
                "the memory does not hold all models: each chunk loads %s again", ", ".join(again)
            )
    saved = SavedBatches(stage)
    stage.at_end = saved.delete
    return Asker(
        opened,
        spec.system_instruction,
        rows,
        check_stop=stage.check_stop,
        progress=stage.estimated_progress,
        remote=served,
        saved=saved,
        stays=stays,
    )


def merge(spec: EvalStage, stage: Stage, shards: list[Record]) -> None:
    """Score the generations of all shards, in the order of the sets."""
    found = read_shards(stage, shards)
    models, asked = _what(spec, stage)
    passes = list_passes(spec, stage, asked)
    judge = Judge(recipe_named(spec.dataset.recipe))
    _assemble(spec, stage, models, asked, passes, found, judge)


def _known(spec: EvalStage, stage: Stage, asked: Sequence[Asked], passes: Sequence[Pass]) -> Found:
    """Return the answers that earlier evaluations have kept."""
    pairs = zip(asked, passes, strict=True)
    answers = {one.file: kept.find_answers(spec, stage, one, each) for one, each in pairs}
    return {file: found for file, found in answers.items() if found is not None}


def _asked_again(spec: EvalStage, asker: Asker, passes: Sequence[Pass]) -> list[Pass]:
    """Return the pass that measures the noise floor, where answers depend on their batch."""
    if not asker.depends_on_batches(TUNED):
        return []
    after = next(each for each in passes if each.model == TUNED)
    return [noise.again(after, asker.batch_size, spec.seed)]


def _what(spec: EvalStage, stage: Stage) -> tuple[tuple[AskedModel, ...], list[Asked]]:
    """Return the models, and which model is asked which set."""
    sets = load_sets(spec, stage)
    contamination(spec, stage, sets)
    models = list_models(spec, stage.upstream("train").results_as(TrainResults))
    return models, list_asked(models, sets)


def _assemble(
    spec: EvalStage,
    stage: Stage,
    models: Sequence[AskedModel],
    asked: Sequence[Asked],
    passes: Sequence[Pass],
    found: Found,
    judge: Judge,
) -> None:
    """Score all generations, and write samples, traces, report and results."""
    if not spec.options.stop_early:
        for one, each in zip(asked, passes, strict=True):
            kept.keep_answers(spec, stage, one, each, found[one.file])
    sets = tuple({one.set.name: one.set for one in asked}.values())
    answered = samples.score_answers(asked, found, judge)
    everything = samples.build_samples(sets, models, answered)
    with stage.output(samples.FILE) as output:
        for row in dump_samples(everything):
            output.write_row(row)
    for source in sorted({each.user_scorer.source for each in sets if each.user_scorer}):
        stage.write_output(scorer_file(hashlib.sha256(source).hexdigest()), source)
    _write_traces(stage, sets, answered)
    measured = noise_floor(passes, answered, found, spec.seed, judge)
    report = write_report(spec, stage, sets, everything, measured)
    enter_candidate(stage, report)


def _write_traces(stage: Stage, sets: Sequence[LoadedSet], answered: Sequence[Answered]) -> None:
    """Write the answers of base and tuned model to the required sets as traces."""
    required = {each.name for each in sets if each.options.weight == "required"}
    names = {BASE: BEFORE, TUNED: AFTER}
    several = len(required) > 1
    files: dict[str, list[Answered]] = {}
    for one in answered:
        row, source = one.asked.model.row, one.asked.model.source
        if one.asked.set.name in required and source in names:
            name = BEFORE_WITH_EXAMPLES if row.examples else names[source]
            files.setdefault(name, []).append(one)
    for name, found in files.items():
        with stage.output(f"eval_{name}.jsonl") as output:
            for one in found:
                for answer in one.answers:
                    meta = _meta(stage, one, answer, several=several)
                    trace = build_eval_trace(
                        answer.item,
                        answer.judgement,
                        text=answer.generation.text,
                        parsed=answer.parsed,
                        meta=meta,
                    )
                    output.write_row(jsonl.dump_line(trace))


def _meta(stage: Stage, one: Answered, answer: Answer, *, several: bool) -> dict[str, Any]:
    # Name the fingerprint, not the run: runs that share the evaluation share the bytes.
    meta: dict[str, Any] = {
        "evaluation": stage.spec.fingerprint,
        "model_digest": one.asked.model.weights_digest,
        "output_tokens": answer.generation.tokens,
        "hit_token_limit": answer.generation.hit_limit,
    }
    if several:
        meta["eval_set"] = one.asked.set.name
    if one.asked.set.options.samples > 1:
        meta["sample"] = answer.sample
    return meta
