"""Warnings of a report: what a reader must know before believing the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tuneloop.artifacts.evaluation.delta_report import (
    DeltaReport,
    ExportAccounts,
    Training,
    Warned,
)
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples
from tuneloop.artifacts.evaluation.set_result import ModelResult, SetResult
from tuneloop.evaluation.report.texts import TUNED

FEW_ITEMS = 50
MANY_CUT, MANY_NO_ANSWER, SEVERE_SHARE = 0.05, 0.1, 0.25
LENIENT_GAIN = 0.05
"""Lenient over strict accuracy at which the format of answers explains a part of the score."""
NEAR_NOISE = 0.5
"""Share of the differences between two models that noise alone makes, from which it is near."""
COARSE = 0.1
"""Smallest detectable gain, 0 to 1, at which a set is too small for the usual gains."""


def find_warnings(report: DeltaReport, samples: EvalSamples) -> tuple[Warned, ...]:
    """Return all warnings, the severe ones first."""
    found = [*_of_context(report), *_of_answers(samples), *_of_noise(report, samples)]
    counts: list[_Count] = []
    for each in report.sets:
        named = f" on {each.name}" if len(report.sets) > 1 else ""
        found += _of_size(each, named)
        for model in each.models:
            if model.model in (each.base, TUNED):
                counts += _counts(model, named)
                found += _of_format(model, named)
    found += _joined(counts)
    found += _of_training(report.training)
    found += _of_export(report.export)
    return tuple(sorted(found, key=lambda one: not one.severe))


@dataclass(frozen=True)
class _Count:
    """A number of answers of one model that something is wrong with."""

    kind: str
    count: int
    total: int
    answers: str

    def __str__(self) -> str:
        return f"{self.count} of {self.total} {self.answers}"


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


def _of_noise(report: DeltaReport, samples: EvalSamples) -> Iterator[Warned]:
    """Compare what changes without training with what the two models answer differently."""
    noise = report.noise
    known = {each.name: each for each in report.sets}
    # Records without the name of the set are of versions that always asked the first one.
    name = next(iter(known)) if noise is None or noise.set is None else noise.set
    if noise is None or not noise.answers or name not in known:
        return
    values: dict[str, dict[str, float]] = {known[name].base: {}, TUNED: {}}
    for one in samples.samples:
        if one.set == name and one.sample == 0 and one.model in values:
            values[one.model][one.item] = one.score.value
    base, tuned = values[known[name].base], values[TUNED]
    both = base.keys() & tuned
    differ = sum(base[item] != tuned[item] for item in both)
    count = noise.changed if noise.flipped is None else noise.flipped
    rate, discordance = count / noise.answers, differ / max(1, len(both))
    if not count or rate < NEAR_NOISE * discordance:
        return
    named = f" of {name}" if len(known) > 1 else ""
    what = "answer" if noise.flipped is None else "score"
    text = (
        f"Asked again in other batches, the tuned model got another {what} for {count} of"
        f" {noise.answers} questions{named}. The scores of the two models differ for {differ} of"
        f" {len(both)}. Many of the improvements and regressions may be noise."
    )
    yield Warned(kind="noise", text=text, severe=what == "score" and rate >= discordance)


def _of_size(found: SetResult, named: str) -> Iterator[Warned]:
    if found.weight == "informative" or (found.stopping and found.stopping.not_asked):
        return
    where = named.replace(" on ", " in ", 1)
    coarse = found.detectable is not None and found.detectable > COARSE
    if found.items < FEW_ITEMS:
        text = f"There are only {found.items} questions{where}."
    elif coarse and found.verdict == "no detectable difference":
        text = f"The {found.items} questions{where} are too few to see a small gain."
    else:
        return
    if coarse and found.detectable is not None:
        text += (
            f" A gain below {100 * found.detectable:.0f} of 100 questions is missed in more than"
            " one of five evaluations."
        )
    yield Warned(kind="few_items", text=text)


KINDS = {
    "missing": ("is missing", "are missing"),
    "errors": ("could not be scored", "could not be scored"),
    "token_limit": ("hit the token limit", "hit the token limit"),
    "empty": ("is empty", "are empty"),
    "no_answer": ("has no answer that could be found", "have no answer that could be found"),
}
"""Kind of a warning on counted answers -> what one and what several answers do."""


def _counts(model: ModelResult, named: str) -> Iterator[_Count]:
    strict, total = model.strict, model.strict.total
    without = strict.no_answer + strict.truncated
    if without <= max(model.empty, model.hit_limit):
        without = 0  # empty and cut answers have none either, and their own warnings say more
    for kind, count, least in (
        ("missing", model.missing, 0.0),
        ("errors", strict.error - model.missing, 0.0),
        ("token_limit", model.hit_limit, MANY_CUT),
        ("empty", model.empty, MANY_NO_ANSWER),
        ("no_answer", without, MANY_NO_ANSWER),
    ):
        if count and count >= least * total:
            yield _Count(kind, count, total, f"answers of the {_name(model)}{named}")


def _joined(counts: Sequence[_Count]) -> Iterator[Warned]:
    """Make one warning of each kind."""
    for kind, (one, many) in KINDS.items():
        own = [each for each in counts if each.kind == kind]
        if own:
            said = list(map(str, own))
            said[-2:] = [" and ".join(said[-2:])]
            verb = one if len(own) == 1 and own[0].count == 1 else many
            severe = any(each.count >= SEVERE_SHARE * each.total for each in own)
            yield Warned(kind=kind, text=f"{', '.join(said)} {verb}.", severe=severe)


def _of_format(model: ModelResult, named: str) -> Iterator[Warned]:
    gain = model.lenient.share - model.strict.share
    if gain >= LENIENT_GAIN:
        text = (
            f"{100 * gain:.0f} of 100 answers of the {_name(model)}{named} are right in another"
            " place than the prompt asks for. Part of the difference between the models may be"
            " format, not knowledge."
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
