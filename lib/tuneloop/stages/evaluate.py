"""Evaluate: base and tuned model on one static eval set -> traces of both, and the delta report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from tuneloop import jsonl, resources
from tuneloop.artifacts import records
from tuneloop.artifacts.delta_report import ContaminationState, Context, DeltaReport, dump_report
from tuneloop.artifacts.eval_samples import (
    EvalSamples,
    EvalSet,
    Model,
    dump_row,
    dump_samples,
    load_samples,
)
from tuneloop.artifacts.model_manifest import load_referenced_model
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import (
    EvalCounts,
    EvalResults,
    ExportCounts,
    ExportResults,
    TrainCounts,
    TrainResults,
)
from tuneloop.artifacts.training_metrics import parse_metrics
from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.evaluation.report.build import build_report
from tuneloop.evaluation.report.context import accounts_of, training_of
from tuneloop.evaluation.report.markdown import render_markdown
from tuneloop.evaluation.scorers.schema import Score, Scorer
from tuneloop.evaluation.scorers.table import scorer_named
from tuneloop.evaluation.sets.schema import EvalItem, parse_eval_set, prompts_sha256
from tuneloop.evaluation.traces import build_eval_trace
from tuneloop.specs.stages import EvalStage
from tuneloop.stages.answering import noise, remote
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.answering.saved import SavedBatches
from tuneloop.stages.context import Stage
from tuneloop.stages.eval_passes import Asker, Pass, Question, choose_shots
from tuneloop.stages.evaluation import samples
from tuneloop.stages.exported import iter_examples
from tuneloop.stages.models.evaluated import open_models
from tuneloop.storage import files
from tuneloop.traces.response_text import ParsedResponse
from tuneloop.training.prompt_templates import Recipe, recipe_named

Items = tuple[EvalItem, ...]
Scored = list[tuple[Score, ParsedResponse]]

BEFORE, BEFORE_WITH_EXAMPLES, AFTER = "before", "before_with_examples", "after"
GUARD_BEFORE, GUARD_AFTER = "guard_before", "guard_after"
SHARD_FILE = "generations_{}.jsonl"
"""File that each shard leaves for the merge, for each pass: rows of item number and generation."""
SPARE_TOKENS = 4
"""Tokens beyond the longest training response, which reveal a model that does not stop."""


def run(spec: EvalStage, stage: Stage) -> None:
    """Generate with both models, score, and write traces and report."""
    items, guard = _eval_set(spec, stage), _guard_set(spec, stage)
    _contamination(spec, stage, items)
    base, tuned = open_models(spec, stage)
    models = {"base": base, "tuned": tuned}
    saved = SavedBatches(stage)
    stage.at_end = saved.delete
    with remote.opened(spec.options.backend, models) as served:
        asker = Asker(
            models,
            spec.system_instruction,
            spec.options.batch_size,
            check_stop=stage.check_stop,
            progress=stage.estimated_progress,
            remote=served,
            saved=saved,
        )
        passes = _passes(spec, stage, items, guard)
        if asker.depends_on_batches("tuned"):
            after = next(each for each in passes if each.model == "tuned")
            passes.append(noise.again(after, spec.options.batch_size, spec.seed))
        found = asker.ask(passes, stage.block)
    if stage.shard_count == 1:
        _assemble(spec, stage, items, guard, found)
        return
    for name, generations in found.items():
        with stage.output(SHARD_FILE.format(name)) as output:
            for number, generation in generations.items():
                row = {"item": number, **asdict(generation)}
                output.write_row(jsonl.dump_line(row))


def merge(spec: EvalStage, stage: Stage, shards: list[Record]) -> None:
    """Score the generations of all shards, in the order of the eval set."""
    found: dict[str, dict[int, Generation]] = {}
    for shard in shards:
        for file in shard.outputs_like(SHARD_FILE.partition("{")[0]):
            name = file.name.removeprefix("generations_").removesuffix(".jsonl")
            rows = records.read_output(file, stage.artifacts).splitlines()
            for row in map(json.loads, rows):
                number = row.pop("item")
                found.setdefault(name, {})[number] = Generation(**row)
    items, guard = _eval_set(spec, stage), _guard_set(spec, stage)
    _assemble(spec, stage, items, guard, found)


def _passes(spec: EvalStage, stage: Stage, items: Items, guard: Items) -> list[Pass]:
    """List what to ask, the base model first."""
    recipe, options = recipe_named(spec.dataset.recipe), spec.options
    texts = [recipe.render_prompt(item.prompt, spec.dataset.instruction) for item in items]
    questions = tuple(map(Question, texts))
    longest = stage.upstream("train").counts_as(TrainCounts).longest_response_tokens
    limit = options.max_new_tokens or longest + SPARE_TOKENS
    base = [Pass(BEFORE, "base", questions, limit)]
    if options.base_examples:
        examples = (example for _, example in iter_examples(stage))
        shots = choose_shots(examples, items, set(texts), options.base_examples)
        shown = (Question(text, shots[i.category]) for text, i in zip(texts, items, strict=True))
        base.append(Pass(BEFORE_WITH_EXAMPLES, "base", tuple(shown), limit))
    tuned = [Pass(AFTER, "tuned", questions, limit)]
    if guard:
        # General questions are asked as users ask them, without the dataset's instruction.
        asked, limit = tuple(Question(item.prompt) for item in guard), options.guard_max_new_tokens
        base.append(Pass(GUARD_BEFORE, "base", asked, limit))
        tuned.append(Pass(GUARD_AFTER, "tuned", asked, limit))
    return [*base, *tuned]


def _assemble(
    spec: EvalStage,
    stage: Stage,
    items: Items,
    guard: Items,
    found: Mapping[str, Mapping[int, Generation]],
) -> None:
    """Score all generations, and write traces, report and results."""
    options, recipe = spec.options, recipe_named(spec.dataset.recipe)
    scorer = scorer_named(options.scorer)
    trained = stage.upstream("train").results_as(TrainResults)
    generations = {name: [each[n] for n in range(len(each))] for name, each in found.items()}
    scored = {
        name: _score_all(items, generations[name], recipe, scorer)
        for name in (BEFORE, BEFORE_WITH_EXAMPLES, AFTER)
        if name in generations
    }
    guarded = _score_guard(spec, guard, generations, recipe)
    found_samples = _write_samples(spec, stage, items, guard, generations, {**scored, **guarded})
    for name, answers in scored.items():
        digest = trained.tuned_digest if name == AFTER else trained.base_digest
        _write_traces(stage, name, digest, items, generations[name], answers)
    report = build_report(found_samples, _context(spec, stage, items))
    stage.write_output("delta_report.md", render_markdown(report, found_samples).encode())
    stage.write_output("delta_report.json", dump_report(report))
    _set_results(stage, report)


def _context(spec: EvalStage, stage: Stage, items: Items) -> Context:
    """Return what the report shows in addition to the samples, from the records before this one."""
    train, export = stage.upstream("train"), stage.upstream("export")
    trained, exported = train.results_as(TrainResults), export.results_as(ExportResults)
    contamination = _contamination(spec, stage, items)
    lines = [records.read_output(f, stage.artifacts) for f in train.outputs_like("metrics.jsonl")]
    metrics = parse_metrics(b"".join(lines))
    return Context(
        header=_header(spec, trained, contamination),
        random_weights=spec.model is None or load_referenced_model(spec.model).random_weights,
        contamination=_contamination_state(exported, items),
        training=training_of(metrics, train.counts_as(TrainCounts), trained),
        export=accounts_of(export.counts_as(ExportCounts), exported),
    )


def _score_guard(
    spec: EvalStage,
    guard: Items,
    generations: Mapping[str, list[Generation]],
    recipe: Recipe,
) -> dict[str, Scored]:
    scorer = scorer_named(spec.options.guard_scorer)
    return {
        each: _score_all(guard, generations[each], recipe, scorer)
        for each in (GUARD_BEFORE, GUARD_AFTER)
        if each in generations
    }


def _write_samples(
    spec: EvalStage,
    stage: Stage,
    items: Items,
    guard: Items,
    generations: Mapping[str, Sequence[Generation]],
    scored: Mapping[str, Scored],
) -> EvalSamples:
    """Write all answers and scores. No run is named: runs that share the result share the bytes."""
    options, trained = spec.options, stage.upstream("train").results_as(TrainResults)
    main, guarded = _stem(options.eval_set), _stem(options.guard_set or "")
    guarded += " (guard)" if guarded == main else ""
    sets = [EvalSet(name=main, sha256=spec.eval_set_sha256, scorer=options.scorer)]
    if options.guard_set is not None and spec.guard_set_sha256 is not None:
        sets.append(
            EvalSet(
                name=guarded,
                sha256=spec.guard_set_sha256,
                scorer=options.guard_scorer,
                weight="guarded",
            )
        )
    shown = f"base ({options.base_examples} examples)"
    models = [
        Model(name="base", digest=trained.base_digest),
        Model(name="tuned", digest=trained.tuned_digest),
    ]
    if options.base_examples:
        with_examples = Model(
            name=shown, digest=trained.base_digest, examples=options.base_examples
        )
        models.insert(1, with_examples)
    asked = {
        BEFORE: (main, "base"),
        BEFORE_WITH_EXAMPLES: (main, shown),
        AFTER: (main, "tuned"),
        GUARD_BEFORE: (guarded, "base"),
        GUARD_AFTER: (guarded, "tuned"),
    }
    answered = [
        samples.Answered(*asked[name], generations[name], [score for score, _ in found])
        for name, found in scored.items()
    ]
    rows = samples.rows_of(sets, models, {main: items, guarded: guard}, answered)
    found = load_samples(map(dump_row, rows), samples.FILE)
    with stage.output(samples.FILE) as output:
        for row in dump_samples(found):
            output.write_row(row)
    return found


def _stem(url: str) -> str:
    return url.rsplit("/", 1)[-1].removesuffix(".jsonl")


def _set_results(stage: Stage, report: DeltaReport) -> None:
    overall, guard = report.overall, report.guard
    counts = EvalCounts(
        items=overall.base.total,
        base_correct=overall.base.correct,
        base_no_answer=overall.base.no_answer,
        tuned_correct=overall.tuned.correct,
        tuned_no_answer=overall.tuned.no_answer,
        regressions=len(report.regressions),
        guard_items=guard.base.total if guard else 0,
        guard_base_correct=guard.base.correct if guard else 0,
        guard_tuned_correct=guard.tuned.correct if guard else 0,
        guard_kept=guard.kept if guard else 0,
    )
    results = EvalResults(
        accuracy_base=overall.base.share,
        accuracy_tuned=overall.tuned.share,
        by_category={
            group.name: (group.base.share, group.tuned.share) for group in report.categories
        },
        verdict=report.verdict,
        gain_low=overall.paired.gain_low,
        gain_high=overall.paired.gain_high,
        base_examples=report.base_examples,
        by_base_examples={one.examples: one.base.share for one in report.base_prompts},
        guard_kept_low=guard.kept_low if guard else None,
        guard_kept_high=guard.kept_high if guard else None,
        random_weights=report.random_weights,
    )
    stage.set_results(counts, results)


def _eval_set(spec: EvalStage, stage: Stage) -> Items:
    return _read_set(stage, "eval_set", spec.options.eval_set, spec.eval_set_sha256)


def _guard_set(spec: EvalStage, stage: Stage) -> Items:
    """Read the guard set; empty if there is none."""
    if spec.options.guard_set is None or spec.guard_set_sha256 is None:
        return ()
    return _read_set(stage, "guard_set", spec.options.guard_set, spec.guard_set_sha256)


def _read_set(stage: Stage, name: str, url: str, expected_sha256: str) -> Items:
    try:
        data = files.read(resources.input_url(url))
    except FileNotFoundError as e:
        raise InputMissing(f"{url}: missing; put the set there, or change eval.{name}") from e
    if hashlib.sha256(data).hexdigest() != expected_sha256:
        raise DataError(f"{url}: changed after the run was planned; plan the run again")
    stage.inputs[name] = expected_sha256
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


def _contamination_state(exported: ExportResults, items: Items) -> ContaminationState:
    found = exported.contamination
    if found.eval_prompts_sha256 != prompts_sha256(items):
        return "unchecked"
    return "kept" if found.kept else "clean"


def _score_all(
    items: Items, generations: Sequence[Generation], recipe: Recipe, scorer: Scorer
) -> Scored:
    found = []
    for item, generation in zip(items, generations, strict=True):
        parsed = recipe.parse_response(generation.text)
        read = parsed.answer if scorer.reads == "answer" else generation.text
        found.append((scorer.score(item, read), parsed))
    return found


def _write_traces(
    stage: Stage,
    name: str,
    digest: str,
    items: Items,
    generations: Sequence[Generation],
    scored: Scored,
) -> None:
    with stage.output(f"eval_{name}.jsonl") as output:
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


def _header(spec: EvalStage, trained: TrainResults, contamination: str) -> dict[str, str]:
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
        "base model": trained.base_digest,
        "tuned model": trained.tuned_digest,
        "decoding": f"greedy, batch {spec.options.batch_size}",
    }
