"""Web pages of runs: their state, the results of training and evaluation, and the report.

The report is Markdown that contains model output. Only its text, tables and code are rendered, and
no HTML, links or images.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from tuneloop.artifacts.records import Record
from tuneloop.errors import TuneloopError
from tuneloop.history.cost import account
from tuneloop.history.grouping.membership import memberships_of, read_groups
from tuneloop.history.stored import StoredRun
from tuneloop.storage.objects import in_parallel
from tuneloop.store.dependencies import Service, Svc, in_artifact_threads
from tuneloop.store.web import comparisons, examples, live, run_files
from tuneloop.store.web.live import NoRun, shared_view, view_run
from tuneloop.store.web.render import is_blank, page, problem, security_headers, visible
from tuneloop.store.web.run_files import files_of_records
from tuneloop.store.web.stored_runs import (
    find_run,
    list_run_ids,
    read_output,
)

MAX_RUNS = 200
"""Maximum number of runs on a page, because each needs several reads."""
MAX_REPORT_BYTES = 1 << 20
MAX_MARKDOWN_CHARACTERS = 1 << 16
"""Longest beginning of a report that is rendered as Markdown."""
LONG_CODE = 20
"""Code longer than this many characters may wrap anywhere, so that a digest does not widen its
table."""
LOWEST_HEADING = 6

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_LOOK: dict[str, Any] = {"methods": ["GET", "HEAD"], "include_in_schema": False}

REPORTS = {"eval": "delta_report.md", "sample": "sampling_report.md"}
"""Stage -> its report in Markdown."""

router = APIRouter()
router.include_router(comparisons.router)  # before /runs/{run_id}
router.include_router(examples.router)
router.include_router(live.router)
router.include_router(run_files.router)


@dataclass(frozen=True)
class RunList:
    """Runs, newest first."""

    shown: list[StoredRun]
    """The runs on the page, at most MAX_RUNS."""
    total: int
    """Number of all runs."""


@router.api_route("/runs", **_LOOK)
@in_artifact_threads
def runs(service: Svc, of: str = "") -> Response:
    """Show all runs, or those of one sweep or of the rounds of one spec.

    Args:
        service: the state of the store.
        of: id of the sweep or of the rounds; empty shows all runs.
    """
    groups = memberships_of(read_groups(service.artifacts))
    chosen = {run_id for run_id, found in groups.items() if of in (each.group for each in found)}
    found = list_runs(service, chosen if of else None)
    hours = chip_hours(service, found.shown)
    return page("runs", section="runs", runs=found, chip_hours=hours, groups=groups, of=of)


def chip_hours(service: Service, shown: Sequence[StoredRun]) -> dict[str, str]:
    """Return the chip-hours that runs have held on a cluster, by run id."""
    prices = service.catalog.prices
    runs = [run for run in shown if not account.is_local(run)]
    found = in_parallel(lambda run: account.taken_by(run, service.artifacts, prices), runs)
    return {
        run.run_id: account.totals(taken, prices)[account.HELD]
        for run, taken in zip(runs, found, strict=True)
        if taken
    }


def list_runs(service: Service, chosen: Collection[str] | None = None) -> RunList:
    """List runs by the start of their newest stage; if there are too many, the first by name.

    Args:
        service: the state of the store.
        chosen: ids of the runs to list; None lists all.
    """
    ids = [each for each in list_run_ids(service) if chosen is None or each in chosen]
    found = in_parallel(lambda run_id: find_run(service, run_id), ids[:MAX_RUNS])
    shown = [run for run in found if run is not None]
    shown.sort(key=lambda run: run.started_at or _LONG_AGO, reverse=True)
    return RunList(shown, len(ids) - min(len(ids), MAX_RUNS) + len(shown))


@dataclass(frozen=True)
class Part:
    """A part of a page made from a file, or the problem with that file."""

    value: Any = None
    problem: str = ""


@router.api_route("/runs/{run_id}", **_LOOK)
@in_artifact_threads
def run(run_id: str, service: Svc, refreshed: bool = False) -> Response:
    """Show one run with its stages, losses and report.

    Args:
        run_id: id of the run.
        service: the state of the store.
        refreshed: whether the page reloads itself, for which a recent view is enough.
    """
    view = shared_view(service, run_id) if refreshed else None
    if view is None or not view.is_live:
        try:
            view = view_run(service, run_id, verify=True)
        except NoRun as e:
            raise HTTPException(404, "No run has this id") from e
    found = view.run
    done = {stage.name: stage.record for stage in found.stages if stage.record}
    return page(
        "run",
        headers=security_headers(live=view.is_live),
        section="runs",
        run=found,
        view=view,
        outputs=files_of_records(found),
        machines=machines_of(service, found),
        spec=_spec(found),
        report=_part(service, done.get("eval") or done.get("sample"), _report),
    )


@dataclass(frozen=True)
class Machines:
    """What a run has taken on a cluster."""

    totals: dict[str, str]
    """Figures of the whole run by name; empty for runs on one machine."""
    table: list[list[str]]
    """Figures of each stage, with a head."""


def machines_of(service: Service, run: StoredRun) -> Machines:
    """Read what a run has taken; the prices are the store's own."""
    prices = service.catalog.prices
    found = account.taken_by(run, service.artifacts, prices)
    return Machines(account.totals(found, prices), account.table(found, prices))


def _part(service: Service, record: Record | None, make: Any) -> Part:
    try:
        return Part() if record is None else Part(make(record, service.artifacts))
    except TuneloopError as e:
        return Part(problem=problem(e, service))


def _spec(found: StoredRun) -> str:
    """Format the run's spec without URLs, which could reveal the server's paths."""
    if found.manifest is None:
        return ""
    spec = {name: v for name, v in found.manifest.spec.items() if name != "execution"}
    if isinstance(spec.get("eval"), dict):
        spec["eval"] = _without_folders(spec["eval"])
    if isinstance(spec.get("sample"), dict):
        spec["sample"] = _sample_without_folders(spec["sample"])
    return json.dumps(spec, indent=2, ensure_ascii=False)


def _without_folders(value: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the evaluation with the names of its sets' files alone."""
    found = dict(value)
    for key in ("eval_set", "guard_set", "url"):
        if found.get(key):
            found[key] = str(found[key]).rsplit("/", 1)[-1]
    if isinstance(found.get("sets"), list):
        sets = [each for each in found["sets"] if isinstance(each, dict)]
        found["sets"] = [_without_folders(each) for each in sets]
    return found


def _sample_without_folders(value: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a sample stage with the names of files alone."""
    found = dict(value)
    if isinstance(found.get("prompts"), dict):
        found["prompts"] = _without_folders(found["prompts"])
    if isinstance(found.get("apart_from"), list):
        found["apart_from"] = [str(each).rsplit("/", 1)[-1] for each in found["apart_from"]]
    if isinstance(found.get("scorer"), str):
        found["scorer"] = found["scorer"].rsplit("/", 1)[-1]
    return found


def _report(record: Record, artifacts: str) -> Markup:
    data = read_output(record, REPORTS[record.stage], artifacts, MAX_REPORT_BYTES)
    return render_report(data.decode("utf-8", "replace"))


def render_report(text: str) -> Markup:
    """Render a report's Markdown as part of a page, with headings one level lower.

    Only the beginning is rendered as Markdown, which takes up to 40 seconds for a megabyte. The
    rest is shown as it is.
    """
    shown = visible(text)
    end = len(shown)
    if end > MAX_MARKDOWN_CHARACTERS:
        end = shown.rfind("\n", 0, MAX_MARKDOWN_CHARACTERS) + 1 or MAX_MARKDOWN_CHARACTERS
    made = _render_markdown(shown[:end])
    if end < len(shown):
        made += Markup(
            "<p>The report is long; the rest is shown as it is in the file.</p>"
            '<pre dir="auto"><code>{}</code></pre>'
        ).format(shown[end:])
    return made


def _render_markdown(text: str) -> Markup:
    markdown = _markdown()
    tokens = markdown.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + 1, LOWEST_HEADING)}"
        if token.type == "th_open":
            token.attrSet("scope", "col")
        if token.type == "fence" and is_blank(token.content):
            token.content = f"({len(token.content) - 1} invisible characters)\n"
        # The security headers forbid inline styles.
        if token.attrs.pop("style", "") == "text-align:right":
            token.attrSet("class", "n")
        for child in token.children or ():
            if child.type == "code_inline" and len(child.content) > LONG_CODE:
                child.attrSet("class", "long")
        if token.type in ("th_open", "td_open", "fence", "code_block", "paragraph_open"):
            token.attrSet("dir", "auto")
    return Markup(markdown.renderer.render(_accessible(tokens), markdown.options, {}))


@functools.cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    return markdown.disable(["link", "image", "autolink", "reference", "entity"])


def _accessible(tokens: list[Token]) -> list[Token]:
    """Make tables scrollable by keyboard, and remove the empty table heads of Markdown."""
    kept, head, heading, names = [], list[Token](), "", Counter[str]()
    for n, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[n + 1].content
        if token.type == "table_open":
            names[heading] += 1
            # Regions need different names, also if a heading has several tables.
            name = f"Table {names[heading]}" if names[heading] > 1 else "Table"
            kept.append(_region(f"{name}: {heading}" if heading else name))
        if token.type == "thead_open" or head:
            head.append(token)
        else:
            kept.append(token)
        if token.type == "thead_close":
            kept += head if any(t.content for t in head if t.type == "inline") else []
            head = []
        if token.type == "table_close":
            kept.append(Token("html_block", "", 0, content="</div>\n"))
    return kept


def _region(name: str) -> Token:
    tag = Markup('<div class="scroll" role="region" tabindex="0" aria-label="{}">\n').format(name)
    return Token("html_block", "", 0, content=str(tag))
