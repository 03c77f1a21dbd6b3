"""The delta report of the stage, and its counts and results."""

from __future__ import annotations

from collections.abc import Sequence

from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.delta_report import Context, DeltaReport, dump_report
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples
from tuneloop.artifacts.model_manifest import load_referenced_model
from tuneloop.artifacts.results import (
    EvalCounts,
    EvalResults,
    ExportCounts,
    ExportResults,
    NoiseFloor,
    TrainCounts,
    TrainResults,
)
from tuneloop.artifacts.training_metrics import parse_metrics
from tuneloop.evaluation.report.build import build_report
from tuneloop.evaluation.report.context import accounts_of, training_of
from tuneloop.evaluation.report.markdown import render_markdown
from tuneloop.evaluation.report.page.html import render_html
from tuneloop.specs.stages import EvalStage
from tuneloop.stages.answering import remote
from tuneloop.stages.evaluation.sets import LoadedSet, contamination, contamination_state
from tuneloop.stages.lifecycle.context import Stage


def write_report(
    spec: EvalStage,
    stage: Stage,
    sets: Sequence[LoadedSet],
    found: EvalSamples,
    noise: NoiseFloor | None,
) -> DeltaReport:
    """Write the delta report, put counts and results into the record, and return the report."""
    report = build_report(found, _context(spec, stage, sets, noise))
    stage.write_output("delta_report.md", render_markdown(report, found).encode())
    stage.write_output("delta_report.json", dump_report(report))
    stage.write_output("delta_report.html", render_html(report, found).encode())
    backend = spec.options.backend
    _set_results(stage, report, {} if backend is None else remote.describe(backend))
    return report


def _context(
    spec: EvalStage, stage: Stage, sets: Sequence[LoadedSet], noise: NoiseFloor | None
) -> Context:
    """Return what the report shows in addition to the samples, from the records before this one."""
    train, export = stage.upstream("train"), stage.upstream("export")
    trained, exported = train.results_as(TrainResults), export.results_as(ExportResults)
    lines = [records.read_output(f, stage.artifacts) for f in train.outputs_like("metrics.jsonl")]
    metrics = parse_metrics(b"".join(lines))
    return Context(
        header=_header(spec, stage, sets),
        random_weights=spec.model is None or load_referenced_model(spec.model).random_weights,
        contamination=contamination_state(exported, sets),
        training=training_of(metrics, train.counts_as(TrainCounts), trained),
        export=accounts_of(export.counts_as(ExportCounts), exported),
        noise=noise,
    )


def _set_results(stage: Stage, report: DeltaReport, answered_by: dict[str, str]) -> None:
    overall, guard = report.overall, report.guard
    guarded = {each.name for each in report.sets if each.weight == "guarded"}
    counts = EvalCounts(
        items=len(report.judged_items),
        base_correct=overall.base.correct,
        base_no_answer=overall.base.no_answer,
        tuned_correct=overall.tuned.correct,
        tuned_no_answer=overall.tuned.no_answer,
        regressions=len(report.regressions),
        guard_items=sum(item.set in guarded for item in report.items),
        guard_base_correct=guard.base.correct if guard else 0,
        guard_tuned_correct=guard.tuned.correct if guard else 0,
        guard_kept=guard.kept if guard else 0,
        not_asked=report.not_asked,
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
        noise=report.noise,
        answered_by=answered_by,
    )
    stage.set_results(counts, results)


def _header(spec: EvalStage, stage: Stage, sets: Sequence[LoadedSet]) -> dict[str, str]:
    """Build the header of the report, which must not depend on when or where the stage ran."""
    trained = stage.upstream("train").results_as(TrainResults)
    required = [each for each in sets if each.options.weight == "required"]
    # Whether they are from an earlier run differs between equal results; the log says it.
    kept = {
        "base answers": "kept for all runs with the same model, questions, decoding and code; those"
        " of an earlier run if there were any, as the log of the stage says"
    }
    backend = spec.options.backend
    return {
        "evaluation": spec.fingerprint,
        "eval set": ", ".join(each.name for each in required),
        "eval set sha256": ", ".join(each.ref.sha256 for each in required),
        "scorer": ", ".join(dict.fromkeys(map(_scorer_name, required))),
        "contamination": contamination(spec, stage, sets),
        "dataset": f"{spec.dataset.key} ({spec.dataset.build_id})",
        "recipe": spec.dataset.recipe,
        "instruction": spec.dataset.instruction or "none",
        "system instruction": spec.system_instruction or "none",
        "seed": str(spec.seed),
        "base model": trained.base_digest,
        "tuned model": trained.tuned_digest,
        "decoding": _decoding(spec, required),
        **(kept if backend is None or "base" not in backend.models else {}),
    }


def _scorer_name(each: LoadedSet) -> str:
    found = each.scorer_name
    return found if isinstance(found, str) else str(found.get("kind"))


def _decoding(spec: EvalStage, sets: Sequence[LoadedSet]) -> str:
    warm = sorted({each.options.temperature for each in sets} - {0})
    how = "greedy" if not warm else f"temperature {', '.join(map(str, warm))}"
    return f"{how}, batch {spec.options.batch_size}"
