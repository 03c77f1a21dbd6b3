"""Render a comparison of runs as one HTML file that loads nothing, in the style of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from tuneloop import templating
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, Item, Sample, State
from tuneloop.evaluation.report.markdown import percent, points
from tuneloop.evaluation.report.page.html import FOLDER, cut, policy
from tuneloop.evaluation.report.page.pictures import Picture
from tuneloop.evaluation.report.page.svg import BASE, SOFT, TUNED, draw
from tuneloop.evaluation.report.page.visible import line, visible
from tuneloop.evaluation.report.texts import TUNED as TUNED_NAME
from tuneloop.evaluation.report.texts import texts_before
from tuneloop.evaluation.report.verdict import change, span
from tuneloop.runs.reports.compare import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ITEMS = 1000
"""Items on the page; `samples.jsonl` of the runs have all."""
MAX_CHARACTERS = 4000
"""Characters of an answer on the page; longer ones are cut in the middle."""
MAX_LABEL = 22
ROW_INCHES = 0.3


@dataclass(frozen=True)
class Panel:
    """One answer of one run."""

    run_id: str
    sample: Sample

    @property
    def text(self) -> str:
        """The text, cut if it is too long."""
        return cut(self.sample.text, MAX_CHARACTERS)


@dataclass(frozen=True)
class Entry:
    """An item for which the runs got different credit."""

    question: Item
    panels: tuple[Panel, ...]

    @property
    def before(self) -> list[tuple[str, str]]:
        """What is asked before the prompt, as (who, text), cut if it is too long."""
        return [(who, cut(text, MAX_CHARACTERS)) for who, text in texts_before(self.question)]

    @property
    def states(self) -> list[State]:
        """State of each run's first answer."""
        return [each.sample.score.state for each in self.panels if not each.sample.sample]

    @property
    def several(self) -> bool:
        """Whether there are several samples of each run."""
        return any(each.sample.sample for each in self.panels)


def render_page(rows: Sequence[Row], samples: Mapping[str, EvalSamples]) -> str:
    """Render the comparison.

    Args:
        rows: what `compare_runs` returned.
        samples: run -> its samples, the first run first.
    """
    first = rows[0].run_id
    names = {row.set: row.sha256 for row in rows if row.gain is None}
    entries = list(_entries(names, samples))
    environment = templating.environment(percent=percent, points=points, visible=visible, line=line)
    style = environment.get_template(f"{FOLDER}/report.css.j2").render()
    compared = [row for row in rows if row.gain is not None]
    return environment.get_template(f"{FOLDER}/comparison.html.j2").render(
        policy=policy(style, ""),
        style=Markup(style),
        first=first,
        title=_title(first, samples, list(names)),
        rows=rows,
        compared=[{"verdict": row.verdict, "sentence": _sentence(row, first)} for row in compared],
        pictures=[
            _accuracies(name, number, [row for row in rows if row.sha256 == digest])
            for number, (name, digest) in enumerate(names.items())
        ],
        entries=entries[:MAX_ITEMS],
        differing=len(entries),
        total=sum(row.items for row in rows if row.gain is None),
        runs={run_id: found.models[TUNED_NAME].digest for run_id, found in samples.items()},
        sets=names,
    )


def _title(first: str, samples: Mapping[str, EvalSamples], sets: Sequence[str]) -> str:
    others = [run_id for run_id in samples if run_id != first]
    who = others[0] if len(others) == 1 else f"{len(others)} runs"
    where = sets[0] if len(sets) == 1 else f"{len(sets)} sets"
    return f"{who} compared with {first} on {where}"


def _sentence(row: Row, first: str) -> str:
    """Say the comparison for readers who do not know statistics."""
    gain, low, high = row.gain or 0.0, row.gain_low or 0.0, row.gain_high or 0.0
    if not gain:
        said = f"answers as many questions of {row.set} correctly as {first}"
    else:
        said = f"answers {change(gain)} of 100 questions of {row.set} correctly than {first}"
    doubt = ", but the difference may be chance"
    unsure = doubt if gain and row.verdict == "no detectable difference" else ""
    return f"{row.run_id} {said}{unsure} (95 % interval: {span(low, high)})."


def _accuracies(name: str, number: int, rows: Sequence[Row]) -> Picture:
    def plot(axes: Axes) -> None:
        for at, row in enumerate(rows):
            axes.barh(at, 100 * row.accuracy, 0.6, color=TUNED if at else BASE)
            ends = [100 * row.low, 100 * row.high]
            axes.plot(ends, [at, at], color=SOFT, linewidth=1.4)
            for end in ends:
                axes.plot([end, end], [at - 0.14, at + 0.14], color=SOFT, linewidth=1.4)
            axes.text(ends[1] + 2, at, f"{100 * row.accuracy:.0f} %", va="center")
        axes.set_yticks(range(len(rows)), [line(row.run_id, MAX_LABEL) for row in rows])
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 20))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_xlabel("answers correct, %")

    alt = "; ".join(
        f"{row.run_id}: {100 * row.accuracy:.1f} %, 95 % interval {100 * row.low:.1f} to"
        f" {100 * row.high:.1f} %"
        for row in rows
    )
    height = 0.7 + ROW_INCHES * len(rows)
    svg = draw(
        f"compare-{number}", f"Accuracy on {line(name, 60)}. {line(alt, 2000)}", height, plot
    )
    return Picture(f"Accuracy on {line(name, 40)}", svg, "Lines are 95 % intervals.")


def _entries(sets: Mapping[str, str], samples: Mapping[str, EvalSamples]) -> Iterator[Entry]:
    """Yield the items for which the runs got different credit, in the order of the sets."""
    first = next(iter(samples.values()))
    for name, digest in sets.items():
        answers = {run_id: _answers(found, digest) for run_id, found in samples.items()}
        answers = {run_id: own for run_id, own in answers.items() if own}
        for (set_name, item), question in first.items.items():
            own = {run_id: found[item] for run_id, found in answers.items() if item in found}
            credit = {round(sum(one.score.value for one in each), 9) for each in own.values()}
            if set_name == name and len(credit) > 1:
                panels = (Panel(run_id, one) for run_id, each in own.items() for one in each)
                yield Entry(question, tuple(panels))


def _answers(found: EvalSamples, digest: str) -> dict[str, list[Sample]]:
    """Return id of an item -> the answers of the tuned model, on the set with a digest."""
    names = {name for name, each in found.sets.items() if each.sha256 == digest}
    answers: dict[str, list[Sample]] = {}
    for one in found.samples:
        if one.model == TUNED_NAME and one.set in names:
            answers.setdefault(one.item, []).append(one)
    return {item: sorted(own, key=lambda one: one.sample) for item, own in answers.items()}
