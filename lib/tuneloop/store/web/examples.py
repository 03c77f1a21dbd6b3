"""The page of a run that shows its training examples as tokens, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from uuid import UUID

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import RedirectResponse, Response

from tuneloop.datasets.schema import is_key
from tuneloop.errors import TuneloopError
from tuneloop.history.stored import StoredRun
from tuneloop.store.catalog import Examples, FoundExample, ShownExample, Token
from tuneloop.store.dependencies import Service, Svc
from tuneloop.store.web.render import page, problem, security_headers
from tuneloop.store.web.stored_runs import find_run

Split = Literal["train", "validation"]
SPLITS: dict[Split, str] = {"train": "training", "validation": "validation"}
"""Sets of examples, each with its adjective."""
MAX_NUMBER = 10**12
READ_THREADS = 2
"""Maximum number of examples that are encoded, or searched for, at the same time."""
_LOOK: dict[str, Any] = {"methods": ["GET", "HEAD"], "include_in_schema": False}

router = APIRouter()
_threads = CapacityLimiter(READ_THREADS)

Number = Annotated[int, Query(ge=1, le=MAX_NUMBER)]


@dataclass(frozen=True)
class TokenGroup:
    """Consecutive tokens that are all in the loss, or all outside of it."""

    trained: bool
    tokens: tuple[Token, ...]


@router.api_route("/runs/example", **_LOOK)
def example_of_trace(
    run: Annotated[str, Query(max_length=300)], trace: Annotated[str, Query(max_length=200)]
) -> Response:
    """Go from a trace to its example in a run; forms cannot put the run into the path."""
    if not is_key(run):
        raise HTTPException(404, "No run has this id")
    url = f"/runs/{run}/examples?{urlencode({'trace': trace})}"
    return RedirectResponse(url, 303, headers=security_headers())


@router.api_route("/runs/{run_id}/examples", **_LOOK)
async def example(
    run_id: str,
    service: Svc,
    number: Number = 1,
    split: Split = "train",
    token: Number = 1,
    trace: Annotated[str, Query(max_length=200)] = "",
    after: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """Show one example as tokens, or look for the example of a trace.

    Args:
        run_id: id of the run.
        service: the state of the store.
        number: number of the example, from 1.
        split: which set of examples.
        token: number of the first shown token, from 1.
        trace: id of a trace; its example is looked for, and shown if it is found.
        after: where to continue looking.
    """
    if trace := trace.strip():
        call = partial(_reply_to_search, service, run_id, trace, after)
    else:
        call = partial(_reply_with_example, service, run_id, split, number, token - 1)
    return await to_thread.run_sync(call, limiter=_threads)


def _run(service: Service, run_id: str) -> tuple[StoredRun, Examples]:
    found = find_run(service, run_id)
    if found is None or service.catalog.examples is None:
        raise HTTPException(404, "No run has this id")
    return found, service.catalog.examples


def _reply_with_example(
    service: Service, run_id: str, split: Split, number: int, start: int
) -> Response:
    run, examples = _run(service, run_id)
    counts = {name: examples.count(run, name) for name in SPLITS}
    total = counts[split]
    if total is not None and number > max(total, 1):
        words = f"The run has {total:,} {SPLITS[split]} examples, so it has none with this number"
        raise HTTPException(404, words)
    shown, said = None, ""
    try:
        if total:
            shown = examples.show(service.artifacts, run, split, number, start)
    except TuneloopError as e:
        said = problem(e, service)
    except ModuleNotFoundError as e:
        said = f"The package {e.name} is not installed where this store runs; install it to see"
        said += " the examples of this run."
    if shown is not None and start and start >= shown.total:
        unit = "tokens" if shown.has_tokens else "characters"
        raise HTTPException(404, f"This example has only {shown.total:,} {unit}")
    return page(
        "examples/example",
        section="runs",
        run_id=run_id,
        split=split,
        number=number,
        counts=counts,
        words=SPLITS,
        total=total,
        shown=shown,
        groups=list(_groups(shown)) if shown else [],
        trace_url=_trace_url(shown.trace_id) if shown else "",
        problem=said,
        facts=_facts(run),
        link=partial(_url, run_id, split),
    )


def _groups(shown: ShownExample) -> Iterator[TokenGroup]:
    for trained, tokens in groupby(shown.tokens, key=lambda token: token.trained):
        yield TokenGroup(trained, tuple(tokens))


def _trace_url(trace_id: str) -> str:
    try:
        return f"/traces/{UUID(trace_id)}"
    except ValueError:
        return ""


def _url(run_id: str, split: str, number: int, token: int = 1) -> str:
    asked = {"number": number} | ({"split": split} if split != "train" else {})
    asked |= {"token": token} if token > 1 else {}
    return f"/runs/{run_id}/examples?{urlencode(asked)}"


def _facts(run: StoredRun) -> dict[str, int]:
    """Return the counts of all examples, from the records of the run."""
    counts = {stage.name: stage.record.counts for stage in run.stages if stage.record}
    found = {
        "tokens": counts.get("train", {}).get("tokens"),
        "in the loss": counts.get("train", {}).get("trained_tokens"),
        "shortened examples": counts.get("export", {}).get("truncated"),
        "excluded traces": counts.get("export", {}).get("excluded"),
    }
    return {name: number for name, number in found.items() if number is not None}


def _reply_to_search(service: Service, run_id: str, trace_id: str, after: str) -> Response:
    run, examples = _run(service, run_id)
    found, said = FoundExample(), ""
    try:
        if examples.count(run, "train") is not None:
            found = examples.find(service.artifacts, run, trace_id, after)
    except TuneloopError as e:
        said = problem(e, service)
    except ModuleNotFoundError as e:
        said = f"The package {e.name} is not installed where this store runs; install it to search"
        said += " the examples of this run."
    if found.number is not None:
        url = _url(run_id, found.split, found.number)
        return RedirectResponse(url, 303, headers=security_headers())
    again = {"trace": trace_id, "after": found.next}
    return page(
        "examples/search",
        section="runs",
        run_id=run_id,
        trace_id=trace_id,
        trace_url=_trace_url(trace_id),
        has_export=examples.count(run, "train") is not None,
        found=found,
        next_url=f"/runs/{run_id}/examples?{urlencode(again)}" if found.next else "",
        problem=said,
    )
