"""Render the delta report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tuneloop import templating
from tuneloop.artifacts.delta_report import Accuracy, DeltaReport, Item
from tuneloop.evaluation.report.build import ScoredItem
from tuneloop.evaluation.scorers.table import scorer_named


def render_markdown(report: DeltaReport, scored: Sequence[ScoredItem]) -> str:
    """Render the report as one self-contained Markdown file.

    Args:
        report: the delta report.
        scored: the items that the report was built from, with their texts.
    """
    by_id = {one.item.id: one for one in scored}

    def with_texts(items: list[Item]) -> list[ScoredItem]:
        return [by_id[item.id] for item in items]

    environment = templating.environment(
        percent=_percent, points=_points, cell=_cell, code=_code, interval=_interval
    )
    template = environment.get_template("evaluation/report/delta_report.md.j2")
    return template.render(
        report=report,
        scorer=scorer_named(report.header["scorer"]),
        guard_scorer=scorer_named(report.guard.scorer) if report.guard else None,
        regressions=with_texts(report.regressions),
        still_wrong=with_texts(report.still_wrong),
        sample=scored[0],
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _interval(accuracy_: Accuracy) -> str:
    return f"{100 * accuracy_.low:.1f} to {100 * accuracy_.high:.1f} %"


def _cell(text: str | None, length: int = 80) -> str:
    """Format text as one line of code for a Markdown table cell; empty for None."""
    if text is None:
        return ""
    line = " ".join(text.split())
    if len(line) > length:
        line = f"{line[: length - 1]}…"
    return "`" + line.replace("`", "'").replace("|", "\\|") + "`"


def _code(text: str) -> str:
    """Format text as a fenced code block whose fence is longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
