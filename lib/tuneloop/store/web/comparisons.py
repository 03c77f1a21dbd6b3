"""Two runs side by side: what differs, their losses in one picture, and their results."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from tuneloop.datasets.schema import is_key
from tuneloop.errors import InputMissing
from tuneloop.history.comparison import Comparison, compare_runs
from tuneloop.store.dependencies import Service, Svc, in_artifact_threads
from tuneloop.store.web.curves import Curve, draw_both
from tuneloop.store.web.live import shared_view
from tuneloop.store.web.render import page

_PLACES = re.compile(r"eval\.(?:eval_set|guard_set|sets\.\d+\.url)")
"""Fields of the spec that hold URLs, of which the page shows the last part."""
_LOOK: dict[str, Any] = {"methods": ["GET", "HEAD"], "include_in_schema": False}

router = APIRouter()


@router.api_route("/runs/compare", **_LOOK)
@in_artifact_threads
def compare(
    service: Svc,
    a: Annotated[str, Query(max_length=300)] = "",
    b: Annotated[str, Query(max_length=300)] = "",
) -> Response:
    """Compare two runs; without both ids, ask for them."""
    a, b = a.strip(), b.strip()
    sections: dict[str, dict[str, tuple[str, ...]]] = {}
    curve: Curve | None = None
    if a and b:
        sections = _shown(_comparison(service, (a, b)))
        curve = draw_both(*(shared_view(service, each).training.metrics for each in (a, b)))
    return page("compare", section="runs", a=a, b=b, sections=sections, curve=curve)


def _comparison(service: Service, run_ids: tuple[str, str]) -> Comparison:
    for run_id in run_ids:
        if not is_key(run_id):
            raise HTTPException(404, "One of the two is not the id of a run")
    try:
        return compare_runs(
            service.artifacts,
            run_ids,
            now=service.clock(),
            # The store's own list: one that a spec names can be any file of the server.
            prices_of=lambda manifest: service.catalog.prices,
        )
    except InputMissing as e:  # its message names a path of the server
        words = f"There are no two readable runs {run_ids[0]} and {run_ids[1]}"
        raise HTTPException(404, words) from e


def _shown(found: Comparison) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the parts without URLs, which could reveal the server's paths."""
    spec = {name: v for name, v in found.spec.items() if not name.startswith("execution")}
    for name in spec:
        if _PLACES.fullmatch(name):
            spec[name] = tuple(value.rsplit("/", 1)[-1] for value in spec[name])
    return {**found.sections, "spec": spec}
