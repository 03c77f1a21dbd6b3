"""Render the delta report as Markdown."""

from __future__ import annotations

import re

from tuneloop import templating
from tuneloop.artifacts.evaluation.accuracy import Accuracy
from tuneloop.artifacts.evaluation.delta_report import DeltaReport
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples
from tuneloop.evaluation.report.texts import items_with_texts, short, texts_before

SHOWN = 20
"""Maximum number of rows of a list of items; `samples.jsonl` and the HTML report have all."""
SHOWN_REGRESSIONS = 200


def render_markdown(report: DeltaReport, samples: EvalSamples) -> str:
    """Render the report as one self-contained Markdown file.

    Args:
        report: the delta report.
        samples: the samples that it was built from.
    """
    judged = report.judged
    items = [one for one in items_with_texts(report, samples) if one.item.set in judged]
    environment = templating.environment(
        percent=percent,
        points=points,
        cell=_cell,
        code=_code,
        interval=interval,
        short=short,
        before=texts_before,
    )
    template = environment.get_template("evaluation/report/delta_report.md.j2")
    return template.render(
        report=report,
        by_outcome={
            name: [one for one in items if one.outcome == name]
            for name in ("regressed", "improved", "still wrong")
        },
        sample=items[0],
        shown=SHOWN,
        shown_regressions=SHOWN_REGRESSIONS,
    )


def percent(share: float) -> str:
    """Format a share, such as `40.0 %`."""
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    """Format a difference of shares in points, such as `+3.0`."""
    return f"{100 * share:+.1f}"


def interval(found: Accuracy) -> str:
    """Format the interval of an accuracy, such as `24.6 to 57.7 %`."""
    return f"{100 * found.low:.1f} to {100 * found.high:.1f} %"


def _cell(text: str | None, length: int = 80) -> str:
    """Format text as one line of code for a Markdown table cell; empty for None or blank text."""
    line = " ".join((text or "").split())
    if not line:
        return ""
    if len(line) > length:
        line = f"{line[: length - 1]}…"
    return "`" + line.replace("`", "'").replace("|", "\\|") + "`"


def _code(text: str) -> str:
    """Format text as a fenced code block whose fence is longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
