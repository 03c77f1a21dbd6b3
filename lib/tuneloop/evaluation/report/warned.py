"""Warnings of a report: what a reader must know before believing the verdict."""

from __future__ import annotations

from collections.abc import Iterator

from tuneloop.artifacts.delta_report import (
    DeltaReport,
    ExportAccounts,
    ModelResult,
    SetResult,
    Training,
    Warned,
)
from tuneloop.artifacts.eval_samples import EvalSamples
from tuneloop.evaluation.report.texts import TUNED

FEW_ITEMS = 50
MANY_CUT, MANY_NO_ANSWER, SEVERE_SHARE = 0.05, 0.1, 0.25
LENIENT_GAIN = 0.05
"""Lenient over strict accuracy at which the format of answers explains a part of the score."""
COARSE = 0.1
"""Smallest detectable gain, 0 to 1, at which a set is too small for the usual gains."""


def find_warnings(report: DeltaReport, samples: EvalSamples) -> tuple[Warned, ...]:
    """Return all warnings, the severe ones first."""
    found = [*_of_context(report), *_of_answers(samples)]
    for each in report.sets:
        named = f" of {each.name}" if len(report.sets) > 1 else ""
        found += _of_size(each, named)
        for model in each.models:
            if model.model in (each.base, TUNED):
                found += _of_model(model, named)
    found += _of_training(report.training)
    found += _of_export(report.export)
    return tuple(sorted(found, key=lambda one: not one.severe))


def _of_context(report: DeltaReport) -> Iterator[Warned]:
    if report.contamination == "unchecked":
        text = (
            "The training data was not checked for the questions of the eval sets. If it holds"
            " them, the result is worthless."
        )
        yield Warned(kind="contamination", text=text, severe=True)
    if report.contamination == "kept":
        text = "Some training examples overlap the eval sets and were kept."
        yield Warned(kind="contamination", text=text, severe=True)
    if report.random_weights:
        text = (
            "The base model has random weights: it knows nothing before training. The gain shows"
            " that the loop works on these data; it does not show that a useful model got better."
        )
        yield Warned(kind="random_weights", text=text, severe=True)


def _of_answers(samples: EvalSamples) -> Iterator[Warned]:
    """Compare the texts of the base and the tuned model."""
    base = next(iter(samples.models))
    texts: dict[tuple[str, str, int], str] = {}
    equal = total = 0
    for one in samples.samples:
        if one.model == base:
            texts[one.set, one.item, one.sample] = one.text
    for one in samples.samples:
        if one.model == TUNED and (one.set, one.item, one.sample) in texts:
            total += 1
            equal += one.text == texts[one.set, one.item, one.sample]
    if total and equal == total:
        text = (
            f"All {total} answers of the two models are the same. Training changed nothing that"
            " these questions can show."
        )
        yield Warned(kind="same_answers", text=text, severe=True)


def _of_size(found: SetResult, named: str) -> Iterator[Warned]:
    if found.weight == "informative":
        return
    coarse = found.detectable is not None and found.detectable > COARSE
    if found.items < FEW_ITEMS:
        text = f"There are only {found.items} questions{named}."
    elif coarse and found.verdict == "no detectable difference":
        text = f"The {found.items} questions{named} are too few to see a small gain."
    else:
        return
    if coarse and found.detectable is not None:
        text += (
            f" A gain below {100 * found.detectable:.0f} of 100 questions is missed in more than"
            " one of five evaluations."
        )
    yield Warned(kind="few_items", text=text)


def _of_model(model: ModelResult, named: str) -> Iterator[Warned]:
    strict, lenient = model.strict, model.lenient
    total = strict.total

    def counted(kind: str, count: int, one: str, many: str, least: float = 0) -> Iterator[Warned]:
        if count and count >= least * total:
            words = one if count == 1 else many
            text = f"{count} of {total} answers of the {_name(model)}{named} {words}."
            yield Warned(kind=kind, text=text, severe=count >= SEVERE_SHARE * total)

    limit = "hit the token limit"
    yield from counted("token_limit", model.hit_limit, limit, limit, MANY_CUT)
    failed = strict.error - model.missing
    yield from counted("errors", failed, "could not be scored", "could not be scored")
    yield from counted("missing", model.missing, "is missing", "are missing")
    yield from counted("empty", model.empty, "is empty", "are empty", MANY_NO_ANSWER)
    without = strict.no_answer + strict.truncated
    if without > max(model.empty, model.hit_limit):
        words = "no answer that could be found"
        yield from counted("no_answer", without, f"has {words}", f"have {words}", MANY_NO_ANSWER)
    if lenient.share - strict.share >= LENIENT_GAIN:
        text = (
            f"{100 * (lenient.share - strict.share):.0f} of 100 answers of the"
            f" {_name(model)}{named} are right in another place than the prompt asks for. Part of"
            " the difference between the models may be format, not knowledge."
        )
        yield Warned(kind="format", text=text)


def _name(model: ModelResult) -> str:
    return f"{model.model} model" if model.model in ("base", TUNED) else f"model {model.model}"


def _of_training(training: Training | None) -> Iterator[Warned]:
    if training is None or len(training.validations) < 2:
        return
    best_step, best = min(training.validations, key=lambda one: one[1])
    last_step, last = training.validations[-1]
    kept = last_step if training.kept_step is None else training.kept_step
    if last > 1.05 * best and kept > best_step:
        text = (
            f"The validation loss was lowest at step {best_step} ({best:.3g}) and rose to"
            f" {last:.3g}. The tuned model has the weights of step {kept} and may be overfitted."
        )
        yield Warned(kind="overfitting", text=text)


def _of_export(export: ExportAccounts | None) -> Iterator[Warned]:
    if export is None:
        return
    total = export.examples + export.validation_examples
    if export.truncated and export.truncated >= MANY_CUT * total:
        text = (
            f"{export.truncated} of {total} training examples were too long and lost steps of their"
            " reasoning."
        )
        yield Warned(kind="truncated_examples", text=text)
    dropped = sum(export.excluded.values())
    if export.traces and dropped >= 0.5 * export.traces:
        text = f"The export dropped {dropped} of {export.traces} traces of the dataset."
        yield Warned(kind="dropped_traces", text=text)
