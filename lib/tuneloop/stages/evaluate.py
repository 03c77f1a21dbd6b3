"""Evaluate: base and tuned model on one static eval set -> traces of both, and the delta report."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from tuneloop import jsonl, resources
from tuneloop.artifacts import records
from tuneloop.artifacts.delta_report import dump_report
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import (
    EvalCounts,
    EvalResults,
    ExportResults,
    TrainCounts,
    TrainResults,
)
from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.evaluation.report.build import ScoredItem, build_report
from tuneloop.evaluation.report.render import render_markdown
from tuneloop.evaluation.scorers.schema import Score, Scorer
from tuneloop.evaluation.scorers.table import scorer_named
from tuneloop.evaluation.sets.schema import EvalItem, parse_eval_set, prompts_sha256
from tuneloop.evaluation.traces import build_eval_trace
from tuneloop.specs.stages import EvalStage
from tuneloop.stages.context import Stage
from tuneloop.storage import files
from tuneloop.traces.response_text import ParsedResponse
from tuneloop.training.chat_templates import chat_template_named
from tuneloop.training.generation.sampler import Generation, Generator
from tuneloop.training.models import model_files
from tuneloop.training.models.registry import family_named
from tuneloop.training.prompt_templates import Recipe, recipe_named

SHARD_FILES = ("generations_before.jsonl", "generations_after.jsonl")
"""Files that each shard leaves for the merge: generations of base and tuned model."""
SPARE_TOKENS = 4
"""Tokens beyond the longest training response, which reveal a model that does not stop."""


def run(spec: EvalStage, stage: Stage) -> None:
    """Generate with both models in one compilation, score, and write traces and report."""
    items = _eval_set(spec, stage)
    _contamination(spec, stage, items)
    mine = stage.block(-(-len(items) // spec.options.batch_size))
    before, after = _generate(spec, stage, items, mine) if mine else ([], [])
    if stage.shard_count == 1:
        _assemble(spec, stage, items, before, after)
        return
    for name, generations in zip(SHARD_FILES, (before, after), strict=True):
        with stage.output(name) as output:
            for generation in generations:
                output.write_row(jsonl.dump_line(asdict(generation)))


def merge(spec: EvalStage, stage: Stage, shards: list[Record]) -> None:
    """Score the generations of all shards, in the order of the eval set."""
    base, tuned = (
        [
            Generation(**json.loads(line))
            for shard in shards
            for line in records.read_output(shard.output(name), stage.artifacts).splitlines()
        ]
        for name in SHARD_FILES
    )
    _assemble(spec, stage, _eval_set(spec, stage), base, tuned)


def _generate(
    spec: EvalStage, stage: Stage, items: tuple[EvalItem, ...], batches: range
) -> tuple[list[Generation], list[Generation]]:
    """Generate answers of base and tuned model to the items of some batches.

    The items of a batch and the longest prompt do not depend on the number of processes, so the
    answers do not depend on it either.
    """
    recipe = recipe_named(spec.dataset.recipe)
    train = stage.upstream("train")
    base = _load(train, model_files.BASE_WEIGHTS, stage)
    tuned = _load(train, model_files.TUNED_WEIGHTS, stage)
    template = chat_template_named(family_named(base.architecture.family).chat_template)
    prompts = [
        template.render_generation_prompt(
            recipe.render_prompt(item.prompt, spec.dataset.instruction), spec.system_instruction
        )
        for item in items
    ]
    longest = train.counts_as(TrainCounts).longest_response_tokens
    generator = Generator(
        base,
        prompts,
        batch_size=spec.options.batch_size,
        max_new_tokens=spec.options.max_new_tokens or longest + SPARE_TOKENS,
    )
    total = 2 * len(batches)
    stage.progress(0, total)
    before = generator.generate(stage.check_stop, batches)
    stage.progress(len(batches), total)
    generator.use(tuned)
    after = generator.generate(stage.check_stop, batches)
    stage.progress(total, total)
    return before, after


def _assemble(
    spec: EvalStage,
    stage: Stage,
    items: tuple[EvalItem, ...],
    base_generations: list[Generation],
    tuned_generations: list[Generation],
) -> None:
    recipe = recipe_named(spec.dataset.recipe)
    trained = stage.upstream("train").results_as(TrainResults)
    base_digest, tuned_digest = trained.base_digest, trained.tuned_digest
    scorer = scorer_named(spec.options.scorer)
    before, after = (
        [_score(item, one, recipe, scorer) for item, one in zip(items, generations, strict=True)]
        for generations in (base_generations, tuned_generations)
    )
    _write_traces(stage, "eval_before.jsonl", base_digest, items, base_generations, before)
    _write_traces(stage, "eval_after.jsonl", tuned_digest, items, tuned_generations, after)
    scored = [
        ScoredItem(item, base[0], tuned[0], base_one.text, tuned_one.text)
        for item, base, tuned, base_one, tuned_one in zip(
            items, before, after, base_generations, tuned_generations, strict=True
        )
    ]
    header = _header(spec, base_digest, tuned_digest, _contamination(spec, stage, items))
    report = build_report(scored, header)
    stage.write_output("delta_report.md", render_markdown(report, scored).encode())
    stage.write_output("delta_report.json", dump_report(report))
    overall = report.overall
    counts = EvalCounts(
        items=len(items),
        base_correct=overall.base.correct,
        base_no_answer=overall.base.no_answer,
        tuned_correct=overall.tuned.correct,
        tuned_no_answer=overall.tuned.no_answer,
        regressions=len(report.regressions),
    )
    results = EvalResults(
        accuracy_base=overall.base.share,
        accuracy_tuned=overall.tuned.share,
        by_category={
            group.name: (group.base.share, group.tuned.share) for group in report.categories
        },
        verdict=report.verdict,
    )
    stage.set_results(counts, results)


def _eval_set(spec: EvalStage, stage: Stage) -> tuple[EvalItem, ...]:
    url = spec.options.eval_set
    try:
        data = files.read(resources.input_url(url))
    except FileNotFoundError as e:
        raise InputMissing(
            f"{url}: missing; put the eval set there, or change eval.eval_set"
        ) from e
    if hashlib.sha256(data).hexdigest() != spec.eval_set_sha256:
        raise DataError(f"{url}: changed after the run was planned; plan the run again")
    stage.inputs["eval_set"] = spec.eval_set_sha256
    return parse_eval_set(data, url)


def _contamination(spec: EvalStage, stage: Stage, items: tuple[EvalItem, ...]) -> str:
    """Return the result of the export's contamination check, for the report.

    Raises:
        SpecError: the export made no check, and the spec requires one.
    """
    found = stage.upstream("export").results_as(ExportResults).contamination
    if found.eval_prompts_sha256 == prompts_sha256(items):
        if found.kept:
            return f"{found.kept} training examples overlap the eval set and were kept"
        return f"checked: none left in the training set, {found.excluded} traces were kept out"
    if not spec.options.allow_unchecked:
        raise SpecError(
            "eval: the training set was not checked for the eval set, expected a check by exact"
            " and 13-word overlap; set export.contamination to drop, or eval.allow_unchecked to"
            " true, which adds a warning to the report"
        )
    return "NOT CHECKED: the training set may hold the eval set"


def _load(train: records.Record, weights: str, stage: Stage) -> model_files.StoredModel:
    names = (weights, model_files.TOKENIZER, model_files.DESCRIPTION)
    contents = {name: records.read_output(train.output(name), stage.artifacts) for name in names}
    return model_files.load_model(contents, weights, f"record of {train.run_id}/train")


def _score(
    item: EvalItem, generation: Generation, recipe: Recipe, scorer: Scorer
) -> tuple[Score, ParsedResponse]:
    parsed = recipe.parse_response(generation.text)
    return scorer.score(item, parsed.answer), parsed


def _write_traces(
    stage: Stage,
    name: str,
    digest: str,
    items: tuple[EvalItem, ...],
    generations: list[Generation],
    scored: list[tuple[Score, ParsedResponse]],
) -> None:
    with stage.output(name) as output:
        for item, generation, (score, parsed) in zip(items, generations, scored, strict=True):
            # Name the fingerprint, not the run: runs that share the evaluation share the bytes.
            meta = {
                "evaluation": stage.spec.fingerprint,
                "model_digest": digest,
                "output_tokens": generation.tokens,
                "hit_token_limit": generation.hit_limit,
            }
            trace = build_eval_trace(
                item, score, text=generation.text, steps=parsed.steps, meta=meta
            )
            output.write_row(jsonl.dump_line(trace))


def _header(
    spec: EvalStage, base_digest: str, tuned_digest: str, contamination: str
) -> dict[str, str]:
    """Build the header of the report, which must not depend on when or where the stage ran."""
    return {
        "evaluation": spec.fingerprint,
        "eval set": spec.options.eval_set.rsplit("/", 1)[-1],
        "eval set sha256": spec.eval_set_sha256,
        "scorer": spec.options.scorer,
        "contamination": contamination,
        "dataset": f"{spec.dataset.key} ({spec.dataset.build_id})",
        "recipe": spec.dataset.recipe,
        "instruction": spec.dataset.instruction or "none",
        "system instruction": spec.system_instruction or "none",
        "seed": str(spec.seed),
        "base model": base_digest,
        "tuned model": tuned_digest,
        "decoding": f"greedy, batch {spec.options.batch_size}",
    }
