"""Render a run as a comment on a pull request: results, regressions and links, or the failure.

All text from data or from a cluster is put in a code span that it cannot close, so that a model's
answer cannot mention users, add links, or hide what follows.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator

from tuneloop.artifacts.evaluation.accuracy import Group
from tuneloop.artifacts.evaluation.delta_report import DeltaReport
from tuneloop.runs.gating.judge import GateResult
from tuneloop.runs.outcome import Outcome
from tuneloop.stages.table import STAGES

SHOWN_REGRESSIONS = 10
SHOWN_CATEGORIES = 30
SHOWN_REASONS = 10
CELL_CHARACTERS = 60
SENTENCE_CHARACTERS = 500
MARKER = "<!-- tuneloop run {name} -->"
"""First line of the comment, by which a later run of the same spec finds and replaces it."""
# Only a backtick ends a code span, and only a bar ends a table cell.
_HARMLESS = str.maketrans({"`": "'", "|": "¦"})


def marker(run_id: str) -> str:
    """Return the first line of every comment on runs of this name."""
    return MARKER.format(name=run_id.rpartition("-")[0] or run_id)


def render_comment(
    outcome: Outcome, links: dict[str, str] | None = None, gate: GateResult | None = None
) -> str:
    """Render the whole comment, well below GitHub's limit of 65,536 characters.

    Args:
        outcome: outcome of the run.
        links: title -> trusted URL.
        gate: whether the run passes a gate; None shows no gate.
    """
    lines = [
        marker(outcome.run_id),
        *_body(outcome),
        *_gate(gate),
        "",
        *_links(outcome, links or {}),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _body(outcome: Outcome) -> Iterator[str]:
    run = code(outcome.run_id)
    if outcome.report is not None:
        weights = ", from random weights" if outcome.report.random_weights else ""
        yield f"### tuneloop: {run}: {outcome.report.verdict}{weights}"
        yield ""
        yield from _report(outcome.report)
    elif outcome.failure is not None:
        failed = outcome.failure
        yield f"### tuneloop: {run}: stage {failed.stage} failed"
        yield ""
        yield f"{code(failed.state)}: {code(failed.cause, SENTENCE_CHARACTERS)}"
        yield ""
        yield f"What to do: {code(failed.fix, SENTENCE_CHARACTERS) or 'run it again'}"
    elif outcome.missing:
        yield f"### tuneloop: {run}: not finished"
        yield ""
        yield f"Stage {outcome.missing[0]} has no record yet."
    else:
        yield f"### tuneloop: {run}: finished"
        yield ""
        yield from (code(STAGES[each.stage].summary(each)) for each in [outcome.samples] if each)


def _report(report: DeltaReport) -> Iterator[str]:
    overall = report.overall
    yield "| | items | base | tuned | points | improved | regressed |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    yield _row("**all**", overall)
    for group in report.categories[:SHOWN_CATEGORIES]:
        yield _row(code(group.name), group)
    if len(report.categories) > SHOWN_CATEGORIES:
        yield ""
        yield f"{len(report.categories) - SHOWN_CATEGORIES} more categories are in the report."
    yield ""
    yield (
        f"95 % intervals: base {_interval(overall)[0]}, tuned {_interval(overall)[1]};"
        f" exact McNemar p = {overall.paired.p_value:.2g}{_gain(overall)}."
    )
    if report.base_prompts:
        examples = report.base_examples or "no"
        yield f"Base model as it scores best: with {examples} training examples in its prompt."
    if report.guard is not None:
        guard = report.guard
        yield (
            f"General questions: {guard.kept} of the {guard.base.correct} that the base model"
            f" answered correctly are kept ({100 * guard.kept_share:.1f} %)."
        )
    regressed = report.regressions
    if regressed:
        shown = regressed[:SHOWN_REGRESSIONS]
        yield ""
        yield f"<details><summary>Regressions ({len(shown)} of {len(regressed)})</summary>"
        yield ""
        yield "| item | category | base (right) | tuned |"
        yield "|---|---|---|---|"
        for item in shown:
            cells = (item.id, item.category, item.base.answer, item.tuned.answer)
            yield f"| {' | '.join(code(cell) or 'no answer' for cell in cells)} |"
        yield ""
        yield "</details>"


def _gate(gate: GateResult | None) -> Iterator[str]:
    if gate is None:
        return
    yield ""
    yield "**Gate: passes**" if gate.passed else "**Gate: fails**"
    yield ""
    for problem in gate.problems[:SHOWN_REASONS]:
        yield f"- {code(problem, SENTENCE_CHARACTERS)}"
    if len(gate.problems) > SHOWN_REASONS:
        yield f"- {len(gate.problems) - SHOWN_REASONS} more reasons"
    for decision in gate.decisions[:SHOWN_REASONS]:
        yield f"- {code(decision.sentence, SENTENCE_CHARACTERS)}"
    if gate.baseline is not None:
        yield f"- compared with the baseline run {code(gate.baseline)}"


def _row(name: str, group: Group) -> str:
    cells = (
        name,
        str(group.tuned.total),
        f"{100 * group.base.share:.1f} %",
        f"{100 * group.tuned.share:.1f} %",
        f"{100 * group.gain:+.1f}",
        str(group.paired.improved),
        str(group.paired.regressed),
    )
    return f"| {' | '.join(cells)} |"


def _gain(group: Group) -> str:
    low, high = group.paired.gain_low, group.paired.gain_high
    if low is None or high is None:
        return ""
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    return f"; gain {100 * group.gain:+.1f} points, 95 % interval {interval}"


def _interval(group: Group) -> tuple[str, ...]:
    models = (group.base, group.tuned)
    return tuple(f"{100 * m.low:.1f} to {100 * m.high:.1f} %" for m in models)


def _links(outcome: Outcome, links: dict[str, str]) -> Iterator[str]:
    shown = [f"[{title}]({_quoted(url)})" for title, url in links.items()]
    if outcome.report_url is not None:
        page = console_url(outcome.report_url)
        shown.append(f"[report]({page})" if page else f"report {code(outcome.report_url, 300)}")
    if shown:
        yield " · ".join(shown)


def console_url(url: str) -> str | None:
    """Return the web page of an object of GCS or S3; None for any other URL."""
    protocol, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    bucket, key = urllib.parse.quote(bucket, safe=""), urllib.parse.quote(key)
    if protocol in ("gs", "gcs"):
        return f"https://console.cloud.google.com/storage/browser/_details/{bucket}/{key}"
    if protocol in ("s3", "s3a"):
        return f"https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={key}"
    return None


def _quoted(url: str) -> str:
    return urllib.parse.quote(url, safe=":/?&=%#")


def code(text: str | None, length: int = CELL_CHARACTERS) -> str:
    """Return untrusted text as a one-line code span that it cannot close; empty for no text."""
    line = " ".join((text or "").split())
    line = "".join(c for c in line if c.isprintable()).translate(_HARMLESS).strip()
    if len(line) > length:
        line = f"{line[: length - 1]}…"
    return f"`{line}`" if line else ""
