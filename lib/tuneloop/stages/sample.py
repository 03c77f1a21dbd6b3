"""Sample: completions of one model to many prompts -> scored traces and a short report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop import jsonl
from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.artifacts.records import Record
from tuneloop.errors import DataError
from tuneloop.evaluation.scorers.scoring import ScorerName, check_allowed, score_text, scorer_of
from tuneloop.evaluation.traces import build_sample_trace
from tuneloop.specs.sampling import MODEL
from tuneloop.specs.stages import SampleStage
from tuneloop.stages.answering import remote
from tuneloop.stages.answering.batch_size import choose_rows, settle
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.answering.parsing import calls_tool, parse_answer
from tuneloop.stages.answering.question import Question
from tuneloop.stages.answering.saved import SavedBatches
from tuneloop.stages.answering.shards import read_shards, write_shard
from tuneloop.stages.eval_passes import Asker, Pass, longest_prompt
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.models.evaluated import EvaluatedModel, open_referenced
from tuneloop.stages.planned import load_planned_scorer, read_planned_set
from tuneloop.stages.sampling import report
from tuneloop.stages.sampling.prompts import ApartPrompts, Prompts, Rules, load_prompts
from tuneloop.stages.sampling.report import Scored
from tuneloop.traces.response_text import ParsedResponse
from tuneloop.training.generation.decoding import GREEDY, Sampling
from tuneloop.training.generation.devices import device_limit_bytes
from tuneloop.training.prompt_templates import Recipe, recipe_named

FILE = "sampled.jsonl"


@dataclass(frozen=True)
class Work:
    """What the stage asks and how it scores."""

    prompts: Prompts
    scorer: ScorerName
    recipe: Recipe
    model: EvaluatedModel


def run(spec: SampleStage, stage: Stage) -> None:
    """Generate this process's share of the completions; a lone process also scores them."""
    work = _load(spec, stage)
    saved = SavedBatches(stage)
    stage.at_end = saved.delete
    asked = _pass(spec, work)
    rows = settle(spec.options.batch_size, stage, lambda: _choose_rows(spec, asked, work.model))
    models = {MODEL: work.model}
    with remote.opened(spec.options.backend, models, "sample.backend") as served:
        asker = Asker(
            models,
            spec.system_instruction,
            rows,
            check_stop=stage.check_stop,
            progress=stage.estimated_progress,
            remote=served,
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
    recipe, model = recipe_named(spec.recipe), open_referenced(spec.model, spec.thinking)

    def not_renderable(item: Item) -> str | None:
        if item.context is None:
            return None  # Every chat template writes the text of a user.
        try:
            _question(spec, recipe, item).encode(model.chat_format, spec.system_instruction)
        except DataError as e:
            return str(e)
        return None

    prompts = load_prompts(
        options.prompts,
        Rules(recipe, scorer, ApartPrompts(_items_apart(spec, stage)), not_renderable),
        dataset=spec.dataset,
        datasets=spec.execution.datasets,
        sha256=spec.prompts_sha256,
    )
    # Before the first prompt, because completions cost time.
    for each in (scorer, *(item.scorer for item in prompts.items if item.scorer is not None)):
        check_allowed(scorer_of(each), ())
    stage.inputs["model"] = spec.model.digest
    if spec.dataset is not None:
        stage.inputs["dataset"] = spec.dataset.build_id
    if spec.prompts_sha256 is not None:
        stage.inputs["prompts"] = spec.prompts_sha256
    return Work(prompts, scorer, recipe, model)


def _items_apart(spec: SampleStage, stage: Stage) -> Iterator[Item]:
    """Yield the items of the eval sets that stay apart from the samples."""
    for ref in spec.apart_from:
        for item in read_planned_set(ref, stage, "sample.apart_from"):
            yield item.to_item(ref.name)


def _question(spec: SampleStage, recipe: Recipe, item: Item) -> Question:
    text = recipe.render_prompt(item.prompt, spec.instruction)
    return Question(text, id=item.id, context=item.context, think_block=recipe.is_chat)


def _pass(spec: SampleStage, work: Work) -> Pass:
    options = spec.options
    return Pass(
        MODEL,
        MODEL,
        tuple(_question(spec, work.recipe, item) for item in work.prompts.items),
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
    scored, server = list(_score(spec, work, found)), _server(spec)
    with stage.output(FILE) as output:
        for each in scored:
            output.write_row(jsonl.dump_line(_trace(spec, work, each, server)))
    counts = report.count_samples(work.prompts, scored)
    results = report.measure(scored, spec.options.completions, spec.model.digest, server)
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
    if calls_tool(generation.text, item, work.model.chat_format):
        return Judgement("no_answer", 0.0, explanation="the completion calls a tool")
    strict, _ = score_text(
        generation.text,
        item,
        work.scorer,
        parse=lambda text: work.recipe.parse_response(text).answer,
        is_chat=work.recipe.is_chat,
        hit_limit=generation.hit_limit,
    )
    return strict


def _parse(work: Work, item: Item, generation: Generation) -> ParsedResponse:
    """Return the steps and the answer that the trace has; a call of a tool is no answer."""
    if calls_tool(generation.text, item, work.model.chat_format):
        return ParsedResponse((), None)
    return parse_answer(generation.text, item, work.recipe, hit_limit=generation.hit_limit)


def _server(spec: SampleStage) -> str | None:
    """Describe the server that draws the completions; None if the stage does."""
    backend = spec.options.backend
    return None if backend is None else remote.describe(backend)[MODEL]


def _trace(spec: SampleStage, work: Work, each: Scored, server: str | None) -> dict[str, Any]:
    generation = each.generation
    # Name the fingerprint, not the run: runs that share the samples share the bytes.
    meta: dict[str, Any] = {
        "sampled": spec.fingerprint,
        "model_digest": spec.model.digest,
        "output_tokens": generation.tokens,
        "hit_token_limit": generation.hit_limit,
    }
    if server is not None:
        meta["answered_by"] = server
    if spec.options.round is not None:
        meta["round"] = spec.options.round
    parsed = _parse(work, each.item, generation)
    alone = parsed.answer
    if alone is not None and each.item.bare_answer is not True:
        alone = work.recipe.render_response((), alone)
    return build_sample_trace(
        each.item,
        each.judgement,
        sample=each.sample,
        text=generation.text,
        parsed=parsed,
        answer_alone=alone,
        meta=meta,
    )
