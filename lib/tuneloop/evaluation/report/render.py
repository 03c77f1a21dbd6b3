"""The delta report as Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from tuneloop import templating
from tuneloop.artifacts.delta_report import Accuracy
from tuneloop.evaluation.report.build import Answered, DeltaReport


def render_markdown(report: DeltaReport) -> str:
    """Render for people: one Markdown file without anything to fetch."""
    environment = templating.environment(
        percent=_percent, cell=_cell, code=_code, interval=_interval
    )
    template = environment.get_template("evaluation/report/delta_report.md.j2")
    return template.render(report=report)


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
