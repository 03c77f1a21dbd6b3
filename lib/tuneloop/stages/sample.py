"""Sample: completions of one model to many prompts -> scored traces and a short report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop import jsonl
from tuneloop.artifacts.eval_samples import Item, Judgement
from tuneloop.artifacts.records import Record
from tuneloop.evaluation.scorers.scoring import ScorerName, check_allowed, score_text, scorer_of
from tuneloop.evaluation.traces import build_sample_trace
from tuneloop.specs.stages import SampleStage
from tuneloop.stages.answering.batch_size import choose_rows, settle
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.answering.saved import SavedBatches
from tuneloop.stages.answering.shards import read_shards, write_shard
from tuneloop.stages.context import Stage
from tuneloop.stages.eval_passes import Asker, Pass, Question, longest_prompt
from tuneloop.stages.models.evaluated import EvaluatedModel, open_referenced
from tuneloop.stages.planned import load_planned_scorer, read_planned_set
from tuneloop.stages.sampling import report
from tuneloop.stages.sampling.prompts import Prompts, load_prompts
from tuneloop.stages.sampling.report import Scored
from tuneloop.training.generation.decoding import GREEDY, Sampling, device_limit_bytes
from tuneloop.training.prompt_templates import Recipe, recipe_named

MODEL = "model"
"""Name of the only model and of the only pass."""
FILE = "sampled.jsonl"


@dataclass(frozen=True)
class Work:
    """What the stage asks and how it scores."""

    prompts: Prompts
    scorer: ScorerName
    recipe: Recipe


def run(spec: SampleStage, stage: Stage) -> None:
    """Generate this process's share of the completions; a lone process also scores them."""
    work = _load(spec, stage)
    saved = SavedBatches(stage)
    stage.at_end = saved.delete
    model = open_referenced(spec.model, spec.thinking)
    asked = _pass(spec, work)
    rows = settle(spec.options.batch_size, stage, lambda: _choose_rows(spec, asked, model))
    asker = Asker(
        {MODEL: model},
        spec.system_instruction,
        rows,
        check_stop=stage.check_stop,
        progress=stage.estimated_progress,
        saved=saved,
    )
    found = asker.ask([asked], stage.block)
    if stage.shard_count == 1:
        _finish(spec, stage, work, found[MODEL])
    else:
        write_shard(stage, found)


def merge(spec: SampleStage, stage: Stage, shards: list[Record]) -> None:
    """Score the completions of all shards, in the order of the prompts."""
    _finish(spec, stage, _load(spec, stage), read_shards(stage, shards)[MODEL])


def _load(spec: SampleStage, stage: Stage) -> Work:
    options = spec.options
    scorer = load_planned_scorer(options.scorer, "sample.scorer", spec.scorer_sha256, stage)
    prompts = load_prompts(
        options.prompts,
        dataset=spec.dataset,
        datasets=spec.execution.datasets,
        sha256=spec.prompts_sha256,
        scorer=scorer,
        apart=frozenset(_prompts_apart(spec, stage)),
    )
    # Before the first prompt, because completions cost time.
    for each in (scorer, *(item.scorer for item in prompts.items if item.scorer is not None)):
        check_allowed(scorer_of(each), ())
    stage.inputs["model"] = spec.model.digest
    if spec.dataset is not None:
        stage.inputs["dataset"] = spec.dataset.build_id
    if spec.prompts_sha256 is not None:
        stage.inputs["prompts"] = spec.prompts_sha256
    return Work(prompts, scorer, recipe_named(spec.recipe))


def _prompts_apart(spec: SampleStage, stage: Stage) -> Iterator[str]:
    """Yield the prompts of the eval sets that stay apart from the samples."""
    for ref in spec.apart_from:
        for item in read_planned_set(ref, stage, "sample.apart_from"):
            yield item.prompt


def _pass(spec: SampleStage, work: Work) -> Pass:
    options = spec.options
    return Pass(
        MODEL,
        MODEL,
        tuple(
            Question(work.recipe.render_prompt(item.prompt, spec.instruction), id=item.id)
            for item in work.prompts.items
        ),
        options.max_new_tokens,
        samples=options.completions,
        sampling=(
            Sampling(temperature=options.temperature, seed=spec.seed)
            if options.temperature
            else GREEDY
        ),
    )


def _choose_rows(spec: SampleStage, asked: Pass, model: EvaluatedModel) -> int:
    return choose_rows(
        [model.architecture],
        device_limit_bytes(),
        longest_prompt([asked], {MODEL: model}, spec.system_instruction),
        asked.max_new_tokens,
    )


def _finish(spec: SampleStage, stage: Stage, work: Work, found: Mapping[int, Generation]) -> None:
    """Score all completions, and write traces, report and results."""
    scored = list(_score(spec, work, found))
    with stage.output(FILE) as output:
        for each in scored:
            output.write_row(jsonl.dump_line(_trace(spec, work, each)))
    counts = report.count_samples(work.prompts, scored)
    results = report.measure(scored, spec.options.completions, spec.model.digest)
    text = report.render(counts, results, scored)
    stage.write_output(report.FILE, text.encode())
    stage.set_results(counts, results)


def _score(spec: SampleStage, work: Work, found: Mapping[int, Generation]) -> Iterator[Scored]:
    """Yield the completions in the order of the prompts, then of the samples."""
    completions = spec.options.completions
    for number, item in enumerate(work.prompts.items):
        for sample in range(completions):
            generation = found[number * completions + sample]
            yield Scored(item, sample, generation, _judge(work, item, generation))


def _judge(work: Work, item: Item, generation: Generation) -> Judgement:
    strict, _ = score_text(
        generation.text,
        item,
        work.scorer,
        parse=lambda text: work.recipe.parse_response(text).answer,
        hit_limit=generation.hit_limit,
    )
    return strict


def _trace(spec: SampleStage, work: Work, each: Scored) -> dict[str, Any]:
    generation = each.generation
    # Name the fingerprint, not the run: runs that share the samples share the bytes.
    meta: dict[str, Any] = {
        "sampled": spec.fingerprint,
        "model_digest": spec.model.digest,
        "output_tokens": generation.tokens,
        "hit_token_limit": generation.hit_limit,
    }
    if spec.options.round is not None:
        meta["round"] = spec.options.round
    parsed = work.recipe.parse_response(generation.text)
    alone = None if parsed.answer is None else work.recipe.render_response((), parsed.answer)
    return build_sample_trace(
        each.item,
        each.judgement,
        sample=each.sample,
        text=generation.text,
        parsed=parsed,
        answer_alone=alone,
        meta=meta,
    )
