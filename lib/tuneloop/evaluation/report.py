"""The delta report: what the tuned model gained and lost against its base, item by item.

One rule: `build_report` is a pure function of the scored items; Markdown and JSON show the same
numbers, and nothing in them depends on when or where the evaluation ran.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jinja2

from tuneloop.evaluation.results import Accuracy, Paired
from tuneloop.evaluation.scorers import Score
from tuneloop.evaluation.sets import EvalItem
from tuneloop.evaluation.statistics import accuracy, compare

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Answered:
    """One item and what both models made of it."""

    item: EvalItem
    base: Score
    tuned: Score
    base_text: str
    """Generated text, as is."""
    tuned_text: str


@dataclass(frozen=True)
class Row:
    """Accuracies of one group of items."""

    name: str
    base: Accuracy
    tuned: Accuracy
    paired: Paired


@dataclass(frozen=True)
class DeltaReport:
    """All that the report says."""

    header: dict[str, str]
    """What was evaluated: names to values, in order."""
    overall: Row
    categories: tuple[Row, ...]
    verdict: str
    """improved, regressed, or no detectable difference."""
    answered: tuple[Answered, ...]

    @property
    def regressions(self) -> list[Answered]:
        """Items that the base had right and the tuned model has not."""
        return [a for a in self.answered if _is(a.base) and not _is(a.tuned)]

    @property
    def still_wrong(self) -> list[Answered]:
        """Items that neither has right."""
        return [a for a in self.answered if not _is(a.base) and not _is(a.tuned)]


def _is(score: Score) -> bool:
    return score.outcome == "correct"


def build_report(answered: Sequence[Answered], header: dict[str, str]) -> DeltaReport:
    """Count and compare; at least one item."""
    overall = _row("all", answered)
    names = sorted({a.item.category for a in answered})
    categories = tuple(
        _row(name, [a for a in answered if a.item.category == name]) for name in names
    )
    return DeltaReport(header, overall, categories, _verdict(overall), tuple(answered))


def _row(name: str, answered: Sequence[Answered]) -> Row:
    base = [a.base.outcome for a in answered]
    tuned = [a.tuned.outcome for a in answered]
    return Row(name, accuracy(base), accuracy(tuned), compare(base, tuned))


def _verdict(row: Row) -> str:
    if row.paired.p_value >= SIGNIFICANT:
        return "no detectable difference"
    return "improved" if row.paired.improved > row.paired.regressed else "regressed"


def render_markdown(report: DeltaReport) -> str:
    """Render for people: one Markdown file without anything to fetch."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tuneloop.evaluation", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(percent=_percent, cell=_cell, code=_code, interval=_interval)
    return environment.get_template("delta_report.md.j2").render(report=report)


def render_json(report: DeltaReport) -> bytes:
    """Render for programs: the same numbers, every item with both outcomes."""
    value: dict[str, Any] = {
        "header": report.header,
        "verdict": report.verdict,
        "overall": asdict(report.overall),
        "categories": [asdict(row) for row in report.categories],
        "items": [_item(a) for a in report.answered],
    }
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _item(answered: Answered) -> dict[str, Any]:
    return {
        "id": answered.item.id,
        "category": answered.item.category,
        "base": asdict(answered.base),
        "tuned": asdict(answered.tuned),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(accuracy_: Accuracy) -> str:
    return f"{100 * accuracy_.low:.1f} to {100 * accuracy_.high:.1f} %"


def _cell(text: str | None, length: int = 80) -> str:
    """One line of text inside a Markdown table, as code; empty for None."""
    if text is None:
        return ""
    line = " ".join(text.split())
    if len(line) > length:
        line = f"{line[: length - 1]}…"
    return "`" + line.replace("`", "'").replace("|", "\\|") + "`"


def _code(text: str) -> str:
    """A fenced block that its content cannot close."""
    longest = max((len(run) for run in _backtick_runs(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _backtick_runs(text: str) -> list[str]:
    runs, current = [], ""
    for character in text:
        current = current + character if character == "`" else ""
        runs.append(current)
    return runs
