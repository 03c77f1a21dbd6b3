"""The page that builds a dataset: a form, a preview of what each rule removes, and a confirmation.

The form is sent as a query, so that a preview has an address and changes nothing. The preview has
a second form with the same values, which builds the dataset. Neither needs a script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, islice
from typing import Any
from urllib.parse import parse_qsl

from anyio import to_thread
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from tuneloop.datasets.build import DatasetConflict, DatasetEmpty
from tuneloop.datasets.recipe_hint import recipe_hint
from tuneloop.datasets.schema import DEFAULT_RECIPE, BuildRequest, TraceRow
from tuneloop.datasets.selection.account import RuleCount, SelectionAccount
from tuneloop.datasets.selection.expressions import build_rules, parse_filters
from tuneloop.datasets.selection.words import describe_rule, notes
from tuneloop.errors import DataError
from tuneloop.store.dependencies import Service, Svc
from tuneloop.store.routes import request_parsing
from tuneloop.store.routes.builds import (
    find_published,
    keep,
    preview_seed,
    publish,
    selecting,
)
from tuneloop.store.web.render import page, security_headers
from tuneloop.validation import first_error

PREVIEW_ROWS = 10
FORM_BYTES = 1 << 16

DEFAULTS: Mapping[str, str] = {
    "dataset_name": "",
    "dataset_version": "v1",
    "recipe": DEFAULT_RECIPE,
    "instruction": "",
    "filters": "",
    "where": "",
    "min_pass_rate": "",
    "max_pass_rate": "",
    "pass_threshold": "1",
    "near_duplicates": "",
    "per_cluster": "1",
    "best_of": "",
    "best_by": "reward",
    "caps": "",
    "datasets": "",
    "selection_strategy": "latest",
    "limit": "1000000",
    "seed": "",
    "include_evaluation": "",
}
"""Fields of the form with their values at first; all are texts."""

router = APIRouter()


@router.api_route("/datasets/new", methods=["GET", "HEAD"], include_in_schema=False)
async def new_dataset(request: Request, service: Svc) -> Response:
    """Show the form, and what its values select."""
    given = _given(request.query_params)
    if not request.query_params:
        return _show(service, given)
    return await to_thread.run_sync(_preview, service, given, limiter=service.build_threads)


@router.post("/datasets/new", include_in_schema=False)
async def build_dataset(request: Request, service: Svc) -> Response:
    """Build the dataset and go to its page."""
    body = await request_parsing.read(request, FORM_BYTES)
    sent = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    given, preview = _given(dict(sent)), dict(sent).get("preview")
    return await to_thread.run_sync(_build, service, given, preview, limiter=service.build_threads)


def _given(sent: Mapping[str, str]) -> dict[str, str]:
    return {name: sent.get(name, default) for name, default in DEFAULTS.items()}


def _show(service: Service, given: Mapping[str, str], status: int = 200, **values: Any) -> Response:
    return page(
        "new_dataset",
        status,
        section="datasets",
        given=given,
        recipes=[(name, name) for name in service.catalog.recipes],
        **{
            "problem": "",
            "preview": None,
            "hint": None,
            "rows": [],
            "exists": False,
            "rules": [],
            **values,
        },
    )


def _preview(service: Service, given: dict[str, str]) -> Response:
    try:
        asked = read_request(given)
        published = find_published(service, asked)
        seed = preview_seed(service, asked, published)
        with selecting(service, asked, seed) as selection:
            rows: list[TraceRow] = list(islice(selection.rows, PREVIEW_ROWS))
            hint = recipe_hint(asked.recipe, chain(rows, selection.rows))
            account = selection.account or SelectionAccount(considered=0, selected=0)
            preview_id = keep(service, asked, seed, selection)
    except _REFUSALS as e:
        return _refuse(service, given, e)
    return _show(
        service,
        given,
        preview=account,
        rules=described(account),
        rows=rows,
        hint=hint,
        exists=published is not None,
        confirmed={**given, "seed": str(seed), "preview": preview_id or ""},
        key=asked.dataset_key,
    )


def _build(service: Service, given: dict[str, str], preview: str | None) -> Response:
    try:
        manifest, _ = publish(service, read_request(given), preview)
    except _REFUSALS as e:
        return _refuse(service, given, e)
    url = f"/datasets/{manifest.dataset_key}"
    return RedirectResponse(url, 303, headers=security_headers())


def described(account: SelectionAccount) -> list[tuple[str, RuleCount, str]]:
    """Return each rule of an account with a description before it and notes after it."""
    return [(describe_rule(one.rule), one, notes(one.missing, one.facts)) for one in account.rules]


_REFUSALS = (ValueError, HTTPException, DatasetConflict, DatasetEmpty)


def _refuse(service: Service, given: Mapping[str, str], error: Exception) -> Response:
    """Show the form again with what is wrong."""
    words, status = f"A value is not valid: {error}", 422
    if isinstance(error, ValidationError):
        words = f"A value is not valid: {first_error(error)}"
    elif isinstance(error, HTTPException):
        words, status = str(error.detail), error.status_code
    elif isinstance(error, DataError):
        words, status = str(error), 409 if isinstance(error, DatasetConflict) else 422
    return _show(service, given, status, problem=f"{words.rstrip('.')}.")


def read_request(given: Mapping[str, str]) -> BuildRequest:
    """Convert the texts of the form to a build request.

    Raises:
        ValueError: a text is not valid.
    """
    rules = build_rules(
        _lines(given["where"]),
        _lines(given["caps"]),
        _lines(given["datasets"]),
        pass_rate=(
            _number(given, "pass_threshold", float, 1.0) or 0.0,
            _number(given, "min_pass_rate", float),
            _number(given, "max_pass_rate", float),
        ),
        near_duplicates=(
            given["near_duplicates"] or None,
            _number(given, "per_cluster", int, 1) or 0,
        ),
        best_of=(_number(given, "best_of", int), given["best_by"].strip() or "reward"),
    )
    return BuildRequest.model_validate(
        {
            "dataset_name": given["dataset_name"].strip(),
            "dataset_version": given["dataset_version"].strip(),
            "recipe": given["recipe"],
            "instruction": given["instruction"].strip() or None,
            "filters": parse_filters(given["filters"]),
            "limit": _number(given, "limit", int, 1_000_000),
            "selection_strategy": given["selection_strategy"],
            "seed": _number(given, "seed", int),
            "include_evaluation": bool(given["include_evaluation"]),
            "selection": rules,
        }
    )


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _number(
    given: Mapping[str, str], name: str, kind: Callable[[str], float], default: float | None = None
) -> Any:
    text = given[name].strip()
    if not text:
        return default
    try:
        return kind(text)
    except ValueError as e:
        raise ValueError(f"{name}: found {text[:60]!r}, expected a number") from e
