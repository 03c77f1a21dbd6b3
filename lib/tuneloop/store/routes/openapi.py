"""The parts of the OpenAPI document that no route declares: headers, authorization, limits.

Descriptions and examples of parameters, fields and routes are declared next to them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from tuneloop.datasets.schema import BuildRequest
from tuneloop.store.catalog import Catalog
from tuneloop.store.middleware.auth import OPEN_PATHS
from tuneloop.store.routes import refusals
from tuneloop.traces.judgements import LabelRequest, ScoreRow, TraceLabelRequest

DESCRIPTION = """Stores reasoning traces and publishes them as immutable datasets.

Every reply has the header `X-Request-ID`. Its value is the one of the request if that is 1 to 128
visible ASCII characters, otherwise a new one. The access log has it too. If the store has tokens,
send
`Authorization: Bearer TOKEN`; role `read` allows GET, `write` also POST, `admin` also DELETE.
Texts must not contain NUL or lone surrogates; lengths count code points."""

_HEADERS: Mapping[str, Any] = {
    "X-Request-ID": {
        "description": "Id of the request in the store's log.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
        "example": "3f6c0f6e3b0a4f0e8d0b8d7d9e8f1a2b",
    },
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "integer", "minimum": 1},
        "example": 5,
    },
    "WWW-Authenticate": {
        "description": "The scheme to authenticate with.",
        "schema": {"type": "string"},
        "example": "Bearer",
    },
}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token from `tuneloop tokens new`; not needed for a loopback store without"
    " tokens.",
}
_REQUEST_ID = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}
_LIMITS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def install(app: FastAPI, catalog: Catalog, *, guarded: bool) -> None:
    """Complete the application's OpenAPI document.

    Args:
        app: the application, with all its routes.
        catalog: the recipes and export formats that requests can name.
        guarded: whether the store has tokens.
    """
    generate = app.openapi

    def complete() -> dict[str, Any]:
        document = copy.deepcopy(generate())
        components = document["components"]
        components["schemas"] |= _schemas(catalog)
        components["headers"] = dict(_HEADERS)
        components["responses"] = refusals.components()
        components["securitySchemes"] = {"bearer": _BEARER}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["security"] = _security(path, guarded)
                for response in operation["responses"].values():
                    if "$ref" not in response:
                        response["headers"] = _REQUEST_ID
        export = document["paths"]["/api/datasets/{key}/export.jsonl"]["get"]
        (name,) = (one for one in export["parameters"] if one["name"] == "format")
        name["schema"]["enum"] = sorted(catalog.export_formats)
        _restore_integers(document)
        return document

    app.openapi = complete  # type: ignore[method-assign]


def _schemas(catalog: Catalog) -> dict[str, Any]:
    """Build the schemas of bodies that FastAPI does not know because routes parse them."""
    found: dict[str, Any] = {}
    parsed = (BuildRequest, LabelRequest, TraceLabelRequest, ScoreRow)
    for model in (*parsed, refusals.Failure, refusals.Faults):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    found["BuildRequest"]["properties"]["recipe"]["enum"] = sorted(catalog.recipes)
    return found


def _security(path: str, guarded: bool) -> list[dict[str, list[str]]]:
    bearer: dict[str, list[str]] = {"bearer": []}
    return [] if path in OPEN_PATHS else [bearer] if guarded else [{}, bearer]


def _restore_integers(node: Any) -> None:
    """Convert limits back to integers; FastAPI turns them into floats, which changes 2**63."""
    if isinstance(node, list):
        for child in node:
            _restore_integers(child)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name in _LIMITS and isinstance(value, float) and value.is_integer():
                node[name] = int(value)
            _restore_integers(value)
