"""Pages to review traces one by one: plain forms, and keys if the browser runs scripts.

A queue is a filter on the list of traces, newest first; the URL of a page has the whole filter, so
nothing is kept between requests. Each label is added by a form, which only a page of this store can
submit (`middleware/same_origin.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, get_args
from urllib.parse import parse_qs, urlencode
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import RedirectResponse, Response

from tuneloop.store.db.cursor import Cursor, read_cursor, write_cursor
from tuneloop.store.db.labels import NewLabel, Queue, QueueKind, StoredLabel
from tuneloop.store.dependencies import Svc
from tuneloop.store.middleware.auth import token_name, token_role
from tuneloop.store.routes import request_parsing
from tuneloop.store.routes.agreement import COMPARED_LABELS, IGNORED, measure_agreement
from tuneloop.store.routes.labels import value_text
from tuneloop.store.web.render import page, security_headers
from tuneloop.store.web.trace_view import show_labels, shown_value, view_trace
from tuneloop.traces.judgements import (
    ACCEPT,
    MAX_REASON_CHARACTERS,
    MAX_WHO_CHARACTERS,
    NAME_PATTERN,
    REJECT,
    REVIEW,
    SKIP,
    WHO_PATTERN,
)

KINDS: dict[QueueKind, str] = {
    "unlabeled": "without your label",
    "disagreement": "with different labels",
    "all": "all",
}
COUNTED_TRACES = 1000
"""Maximum number of traces that a page counts in its queue."""
SHOWN_VALUES = 6
"""Maximum number of values that have a column of their own."""
SHOWN_LABELS = 100
FORM_BYTES = 1 << 16
_LOOK: dict[str, Any] = {"methods": ["GET", "HEAD"], "include_in_schema": False}

router = APIRouter()
Text = Annotated[str, Query(max_length=1000)]


@dataclass(frozen=True)
class QueueQuery:
    """The fields of a queue as a URL or a form has them; not checked."""

    label: Text = REVIEW
    who: Text = ""
    queue: Text = "unlabeled"
    source: Text = ""


Asked = Annotated[QueueQuery, Depends()]


@router.api_route("/review", **_LOOK)
def index(request: Request, service: Svc, asked: Asked, trace: Text = "") -> Response:
    """Choose the traces to review; show who has labelled what, and how far reviewers agree."""
    name = asked.label if re.fullmatch(NAME_PATTERN, asked.label) else REVIEW
    labels = service.database.labels.current(name, COMPARED_LABELS)
    table = _count_labels(labels)
    agreement = measure_agreement(labels)
    return page(
        "review/index",
        section="review",
        token=token_name(request.scope),
        kinds=KINDS,
        chosen=asked.queue,
        who=asked.who,
        source=asked.source,
        label_name=name,
        names=service.database.labels.names(SHOWN_LABELS),
        trace=trace,
        labels=len(labels),
        agreement=agreement,
        **table,
    )


@dataclass(frozen=True)
class _Row:
    """The labels of one reviewer."""

    who: str
    counts: tuple[int, ...]
    others: int
    total: int


def _count_labels(labels: list[StoredLabel]) -> dict[str, Any]:
    """Count values by reviewer; the most frequent values have columns of their own."""
    often = Counter(label.value for label in labels)
    usual = [value for value in map(value_text, (ACCEPT, REJECT, SKIP)) if value in often]
    rest = [value for value, _ in often.most_common() if value not in usual]
    values = (usual + rest)[:SHOWN_VALUES]
    by_reviewer: dict[str, Counter[str]] = {}
    for label in labels:
        by_reviewer.setdefault(label.who, Counter())[label.value] += 1
    rows = [
        _Row(
            who,
            tuple(counts[value] for value in values),
            sum(count for value, count in counts.items() if value not in values),
            counts.total(),
        )
        for who, counts in by_reviewer.items()
    ]
    rows.sort(key=lambda row: (-row.total, row.who))
    return {
        "values": [shown_value(value) for value in values],
        "has_others": len(often) > len(values),
        "reviewers": rows,
    }


@router.api_route("/review/next", **_LOOK)
def next_trace(
    request: Request,
    service: Svc,
    asked: Asked,
    before: Annotated[str | None, Query(max_length=200)] = None,
    trace: Text = "",
) -> Response:
    """Go to the next trace of a queue, or to a trace that the request names."""
    chosen = _queue(request, asked)
    if trace:
        return _go(f"/review/{_trace_id(trace)}", _fields(chosen))
    place = service.database.labels.next_of(chosen, _cursor(before))
    if place is None:
        return page(
            "review/end",
            section="review",
            queue=chosen,
            kinds=KINDS,
            is_first=before is None,
            first_url=_url("/review/next", _fields(chosen)),
            index_url=_url("/review", _fields(chosen)),
        )
    return _go(f"/review/{place.id}", _fields(chosen))


@router.api_route("/review/{trace_id}", **_LOOK)
def review_trace(trace_id: str, request: Request, service: Svc, asked: Asked) -> Response:
    """Show one trace of a queue with the form for its label."""
    name = _trace_id(trace_id)
    if token_name(request.scope) is None and not asked.who.strip():
        return _go("/review", {"trace": name, "queue": asked.queue, "label": asked.label})
    chosen = _queue(request, asked)
    place = service.database.labels.place_of(name)
    with service.database.reading(name) as found:
        if found is None or place is None:
            raise HTTPException(404, f"No trace has the id {name}; it may have been deleted")
        view = view_trace(found.decoded(name))
    # Labels of others would influence the reviewer, except where they are the question.
    of_whom = None if chosen.kind == "disagreement" else chosen.who
    labels = service.database.labels.find(
        SHOWN_LABELS, trace_id=name, name=chosen.name, who=of_whom
    )
    remaining = service.database.labels.count_of(chosen, COUNTED_TRACES + 1)
    previous = service.database.labels.previous_of(chosen, place.cursor)
    sent = _fields(chosen)
    return page(
        "review/trace",
        headers=security_headers(script="review.js"),
        section="review",
        view=view,
        queue=chosen,
        kinds=KINDS,
        fields=sent,
        labels=show_labels(labels),
        remaining=min(remaining, COUNTED_TRACES),
        is_many=remaining > COUNTED_TRACES,
        may_write=token_role(request.scope) != "read",
        previous_url=previous and _url(f"/review/{previous.id}", sent),
        next_url=_url("/review/next", {**sent, "before": write_cursor(place.cursor)}),
        index_url=_url("/review", sent),
    )


@router.post("/review/{trace_id}", include_in_schema=False)
async def add_label(trace_id: str, request: Request, service: Svc) -> Response:
    """Add the label of a form, and go to the next trace."""
    form = _form(await request_parsing.read(request, FORM_BYTES))

    def work() -> Response:
        name = _trace_id(trace_id)
        place = service.database.labels.place_of(name)
        if place is None:
            raise HTTPException(404, f"No trace has the id {name}; it may have been deleted")
        names = ("label", "who", "queue", "source")
        chosen = _queue(request, QueueQuery(**{name: form.get(name, "") for name in names}))
        value, reason = form.get("value", ""), form.get("reason", "").strip()
        if value not in (ACCEPT, REJECT, SKIP):
            raise HTTPException(422, f"value must be {ACCEPT}, {REJECT} or {SKIP}")
        if len(reason) > MAX_REASON_CHARACTERS:
            raise HTTPException(422, f"reason has more than {MAX_REASON_CHARACTERS} characters")
        new = NewLabel(name, chosen.name, value_text(value), chosen.who, reason)
        service.database.labels.add([new], now=service.clock())
        sent = {**_fields(chosen), "before": write_cursor(place.cursor)}
        return _go("/review/next", sent)

    return await to_thread.run_sync(work, limiter=service.batch_threads)


def _form(body: bytes) -> dict[str, str]:
    """Read a form that a browser sent; lines end with a line feed, as in traces."""
    try:
        text = body.decode("ascii")
        found = parse_qs(text, keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError as e:
        raise HTTPException(400, "The body is no form of this store; use the page") from e
    fields = {name: values[-1].replace("\r\n", "\n") for name, values in found.items()}
    if any("\x00" in value for value in fields.values()):
        raise HTTPException(422, "The form holds a NUL character; remove it")
    return fields


def _queue(request: Request, asked: QueueQuery) -> Queue:
    token, who = token_name(request.scope), asked.who
    if token is None and not (
        len(who) <= MAX_WHO_CHARACTERS and re.fullmatch(WHO_PATTERN, who.strip())
    ):
        raise HTTPException(
            422, f"Your name must be one line of 1 to {MAX_WHO_CHARACTERS} characters"
        )
    if not re.fullmatch(NAME_PATTERN, asked.label):
        raise HTTPException(422, "label must be 1 to 64 letters, digits, dots, _ or -")
    known: tuple[QueueKind, ...] = get_args(QueueKind)
    chosen = next((each for each in known if each == asked.queue), None)
    if chosen is None:
        raise HTTPException(422, f"queue must be one of {', '.join(known)}")
    return Queue(chosen, asked.label, token or who.strip(), IGNORED, asked.source.strip() or None)


def _fields(queue: Queue) -> dict[str, str]:
    """Return the fields of a queue as a URL or a form has them."""
    return {
        "queue": queue.kind,
        "label": queue.name,
        "who": queue.who,
        **({} if queue.source is None else {"source": queue.source}),
    }


def _cursor(text: str | None) -> Cursor | None:
    try:
        return None if text is None else read_cursor(text)
    except ValueError as e:
        words = "before is not a position in the list; start again with the newest traces"
        raise HTTPException(422, words) from e


def _trace_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as e:
        raise HTTPException(404, "This is not a valid trace id") from e


def _url(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}"


def _go(path: str, query: dict[str, str]) -> Response:
    return RedirectResponse(_url(path, query), 303, headers=security_headers())
