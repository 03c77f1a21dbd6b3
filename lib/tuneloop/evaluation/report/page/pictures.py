"""The pictures of the HTML report, with the text that says what they show."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from tuneloop.artifacts.evaluation.accuracy import Accuracy, Group
from tuneloop.artifacts.evaluation.delta_report import DeltaReport, Training
from tuneloop.artifacts.evaluation.set_result import ModelResult, SetResult
from tuneloop.artifacts.results import LengthSummary
from tuneloop.evaluation.report.page.svg import BASE, LINE, OTHER, SOFT, TUNED, draw
from tuneloop.evaluation.report.page.visible import line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CATEGORIES = 25
MAX_LABEL = 22
ROW_INCHES = 0.3


@dataclass(frozen=True)
class Picture:
    """One picture of the page."""

    title: str
    svg: Markup
    note: str = ""
    """How to read it."""


def pictures(report: DeltaReport) -> Iterator[Picture]:
    """Draw all pictures that the report has data for."""
    bases = {each.name for each in report.models if each.digest == report.models[0].digest}
    if report.sets:
        yield _accuracies(report.sets, bases)
    if len(report.categories) > 1:
        yield _categories(report.categories[:MAX_CATEGORIES], len(report.categories))
    if any(each.step is not None for each in report.models):
        yield from _by_step(report)
    if report.training and report.training.losses:
        yield _losses(report.training)
    for number, each in enumerate(report.sets[:3]):
        yield _answer_lengths(each, number)
    if report.export:
        measures = report.export.lengths
        shown = [name for name in measures if name.endswith("tokens")] or list(measures)
        for name in shown[:2]:
            yield _example_lengths(name, measures[name])


def _color(model: str, bases: Collection[str]) -> str:
    return TUNED if model == "tuned" else BASE if model in bases else OTHER


def _accuracies(sets: Sequence[SetResult], bases: Collection[str]) -> Picture:
    rows: list[tuple[str, Accuracy, Accuracy, str]] = []
    for each in sets:
        for model in each.models:
            name = f"{each.name}: {model.model}" if len(sets) > 1 else model.model
            rows.append((name, model.strict, model.lenient, _color(model.model, bases)))

    def plot(axes: Axes) -> None:
        for row, (_, strict, lenient, color) in enumerate(rows):
            share = 100 * strict.share
            axes.barh(row, share, 0.6, color=color)
            axes.plot([100 * strict.low, 100 * strict.high], [row, row], color=SOFT, linewidth=1.4)
            for end in (strict.low, strict.high):
                axes.plot([100 * end] * 2, [row - 0.14, row + 0.14], color=SOFT, linewidth=1.4)
            if lenient.share != strict.share:
                axes.plot(100 * lenient.share, row, "D", color="none", markeredgecolor=color, ms=5)
            end = 100 * max(strict.high, lenient.share) + 2
            axes.text(end, row, f"{share:.0f} %", va="center")
        axes.set_yticks(range(len(rows)), [line(name, MAX_LABEL) for name, *_ in rows])
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 20))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_xlabel("answers correct, %")

    alt = "; ".join(
        f"{name}: {100 * strict.share:.1f} %, 95 % interval {100 * strict.low:.1f} to"
        f" {100 * strict.high:.1f} %, lenient {100 * lenient.share:.1f} %"
        for name, strict, lenient, _ in rows
    )
    svg = draw("accuracy", f"Accuracy. {line(alt, 2000)}", 0.7 + ROW_INCHES * len(rows), plot)
    note = "Lines are 95 % intervals. A diamond is the lenient accuracy, if it differs."
    return Picture("Accuracy", svg, note)


def _categories(groups: Sequence[Group], total: int) -> Picture:
    def plot(axes: Axes) -> None:
        for row, each in enumerate(groups):
            before, after = 100 * each.base.share, 100 * each.tuned.share
            axes.plot([before, after], [row, row], color=SOFT, linewidth=1.2, zorder=1)
            axes.plot(before, row, "o", color=BASE, ms=6, label="base" if not row else None)
            axes.plot(after, row, "s", color=TUNED, ms=6, label="tuned" if not row else None)
        names = [f"{line(each.name, MAX_LABEL)} ({each.base.total})" for each in groups]
        axes.set_yticks(range(len(groups)), names)
        axes.set_xlim(-3, 103)
        axes.set_xticks(range(0, 101, 20))
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_xlabel("answers correct, %")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    alt = "; ".join(
        f"{each.name}: base {100 * each.base.share:.0f} %, tuned {100 * each.tuned.share:.0f} %"
        for each in groups
    )
    note = "In brackets: answers."
    if total > len(groups):
        note += f" The first {len(groups)} of {total} categories; the table has all."
    height = 1.0 + ROW_INCHES * len(groups)
    return Picture(
        "Categories", draw("categories", f"Categories. {line(alt, 2000)}", height, plot), note
    )


def _by_step(report: DeltaReport) -> Iterator[Picture]:
    """Draw the accuracy of the checkpoints, from the base to the tuned model, for each set."""
    steps = {each.name: each.step for each in report.models if each.step is not None}
    training = report.training
    last = max(steps.values()) + 1
    if training is not None:
        last = training.kept_step or (training.losses[-1][0] if training.losses else last)
    for number, found in enumerate(report.sets[:3]):
        at = {found.base: 0, **steps, "tuned": last}
        points = [(at[each.model], each.strict) for each in found.models if each.model in at]
        points.sort(key=lambda one: one[0])
        yield _curve(found.name, number, points, last)


def _curve(name: str, number: int, points: Sequence[tuple[int, Accuracy]], tuned: int) -> Picture:
    """Draw one curve; `tuned` is the step of the tuned model."""
    steps = [step for step, _ in points]
    shares = [100 * each.share for _, each in points]

    def plot(axes: Axes) -> None:
        below = [share - 100 * each.low for share, (_, each) in zip(shares, points, strict=True)]
        above = [100 * each.high - share for share, (_, each) in zip(shares, points, strict=True)]
        axes.errorbar(
            *(steps, shares, [below, above]),
            color=TUNED,
            ecolor=SOFT,
            elinewidth=1.2,
            capsize=3,
            marker="o",
            ms=4,
        )
        share = next(share for step, share in zip(steps, shares, strict=True) if step == tuned)
        axes.plot(tuned, share, "s", color=TUNED, ms=7)
        axes.set_ylim(0, 103)
        axes.set_xlim(left=0 - 0.03 * max(steps))
        axes.grid(axis="y")
        axes.set_xlabel("step of the training; 0 is the base model")
        axes.set_ylabel("answers correct, %")

    alt = "; ".join(
        f"step {step}: {100 * each.share:.1f} %, 95 % interval {100 * each.low:.1f} to"
        f" {100 * each.high:.1f} %"
        for step, each in points
    )
    title = f"Accuracy by step: {line(name, 40)}"
    svg = draw(f"steps-{number}", f"{title}. {line(alt, 2000)}", 2.5, plot)
    return Picture(title, svg, "Bars are 95 % intervals. The square is the tuned model.")


def _losses(training: Training) -> Picture:
    def plot(axes: Axes) -> None:
        axes.plot(*zip(*training.losses, strict=True), color=BASE, linewidth=1.2, label="training")
        if training.validations:
            steps, losses = zip(*training.validations, strict=True)
            marker = "o" if len(steps) <= 40 else ""
            axes.plot(steps, losses, color=TUNED, marker=marker, ms=4, label="validation")
        if training.kept_step:
            axes.axvline(training.kept_step, color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.set_xlabel("step")
        axes.set_ylabel("loss, nats per token")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    first, last = training.losses[0], training.losses[-1]
    alt = f"Training loss: {first[1]:.3g} at step {first[0]}, {last[1]:.3g} at step {last[0]}"
    if training.validations:
        best = min(training.validations, key=lambda one: one[1])
        start = training.validations[0]
        alt += f". Validation loss: {start[1]:.3g} at step {start[0]}, lowest {best[1]:.3g} at step"
        alt += f" {best[0]}"
    note = f"The tuned model has the weights of step {training.kept_step}, the dashed line."
    return Picture(
        "Losses of training",
        draw("losses", f"{alt}.", 2.5, plot),
        note if training.kept_step else "",
    )


def _answer_lengths(found: SetResult, number: int) -> Picture:
    shown = [each for each in found.models if each.model in (found.base, "tuned") and each.tokens]

    def width(each: ModelResult) -> int:
        return each.tokens[1][0] if len(each.tokens) > 1 else each.max_tokens + 1

    def plot(axes: Axes) -> None:
        for each in shown:
            edges = [start for start, _ in each.tokens] + [each.tokens[-1][0] + width(each)]
            counts = [count for _, count in each.tokens]
            color = _color(each.model, (found.base,))
            axes.stairs(counts, edges, color=color, label=each.model, linewidth=1.6)
            axes.stairs(counts, edges, color=color, fill=True, alpha=0.18)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.grid(axis="y")
        axes.set_xlabel("length of an answer, tokens")
        axes.set_ylabel("answers")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    alt = "; ".join(
        f"{each.model}: mean {each.mean_tokens:.0f} tokens, longest {each.max_tokens}, at the"
        f" token limit {each.hit_limit} of {each.strict.total}"
        for each in shown
    )
    svg = draw(
        f"answers-{number}", f"Lengths of answers to {line(found.name, 60)}. {alt}.", 2.4, plot
    )
    cut = ", ".join(f"{each.model} {each.hit_limit} of {each.strict.total}" for each in shown)
    return Picture(
        f"Lengths of answers: {line(found.name, 40)}", svg, f"At the token limit: {cut}."
    )


def _example_lengths(name: str, found: LengthSummary) -> Picture:
    words = name.replace("_", " ")

    def plot(axes: Axes) -> None:
        histogram = found.histogram
        axes.stairs(histogram.counts, histogram.edges, color=OTHER, fill=True)
        axes.axvline(found.quantiles.get("p50", 0), color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=LINE)
        axes.set_xlabel(words)
        axes.set_ylabel("training examples")

    known = ", ".join(f"{key} {value}" for key, value in found.quantiles.items())
    svg = draw(f"examples-{name}", f"{words} of the training examples: {known}.", 2.4, plot)
    return Picture(
        f"Training examples: {words}", svg, f"The dashed line is the median. {known.capitalize()}."
    )
