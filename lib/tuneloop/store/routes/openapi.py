"""What OpenAPI says beyond what types say: examples, refusals, limits, headers, who may ask.

One rule: every operation has a row in OPERATIONS; a new endpoint without one fails a test. What a
row promises is held against the running store by the schema tests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI

from tuneloop.datasets.schema import BuildRequest
from tuneloop.store.middleware.auth import OPEN_PATHS
from tuneloop.store.routes import request_parsing

JSON = "application/json"
TEXT = "text/plain"
OPENMETRICS = "application/openmetrics-text"

DESCRIPTION = """Reasoning traces in, frozen datasets out.

Every reply carries `X-Request-ID`: the request's own if that is 1 to 128 visible ASCII characters,
else a new one; the log names it too. Where the store has tokens, send
`Authorization: Bearer TOKEN`; `read` looks, `write` adds, `admin` deletes. Texts hold no NUL and no
lone surrogate; lengths count code points."""

_ID = "6f1c2f0e-5f5b-4a3e-9d59-0c6a1f0f9b11"
_OTHER_ID = "0b0a5d3c-8d1f-4c55-8f0e-2a7e6a2c4d10"
_TIME = "2026-11-22T11:22:10.546379Z"
_TRACE = {
    "trace_version": "1.0",
    "prompt": "What is 2 + 3?",
    "final_answer": "5",
    "steps": [{"i": 0, "type": "reason", "content": "2 plus 3 is 5"}],
    "meta": {"source": "example"},
}
_CREATED = {"id": _ID, "created_at": _TIME, "trace_version": "1.0"}
_DETAIL = {**_CREATED, "payload": _TRACE}
_SCORED = {**_DETAIL, "score": 5.65}
_BUILD = {
    "dataset_name": "sums",
    "dataset_version": "v1",
    "filters": {"source": "example"},
    "limit": 10_000,
    "seed": 7,
}
_LISTED = {
    "dataset_key": "sums-v1",
    "build_id": "0d1f6a80-9b7c-5b0e-8a2e-6a0f4b6f2c11",
    "trace_count": 1,
    "created_at": _TIME,
}
_BUILT = {
    "dataset_key": "sums-v1",
    "build_id": _LISTED["build_id"],
    "trace_count": 1,
    "seed": 7,
    "manifest_path": "datasets/sums-v1/manifest.json",
}
_MANIFEST = {
    "schema_version": "1",
    **_LISTED,
    "dataset_name": "sums",
    "dataset_version": "v1",
    "recipe": "trace_sft_v1",
    "instruction": None,
    "seed": 7,
    "filters": {"source": "example"},
    "selection_strategy": "latest",
    "limit": 10_000,
    "session_id": None,
    "parent_dataset_id": None,
    "training_run_id": None,
    "stats": {
        "trace_count": 1,
        "avg_step_count": 1.0,
        "min_step_count": 1,
        "max_step_count": 1,
        "avg_total_chars": 28.0,
    },
    "content_sha256": "9f" * 32,
    "shards": [
        {
            "name": "traces-00000-of-00001.jsonl",
            "path": f"attempts/{'0a' * 16}/traces-00000-of-00001.jsonl",
            "rows": 1,
            "size_bytes": 263,
            "sha256": "5c" * 32,
        }
    ],
}
_EXPORTED = {
    "id": _ID,
    "prompts": "What is 2 + 3?",
    "trace_steps": ["2 plus 3 is 5"],
    "final_answer": "5",
    "metadata": {"source": "example", "created_at": _TIME, "trace_version": "1.0"},
}
_SHARD_NAME = "traces-00000-of-00001.jsonl"
_ROW = {
    "created_at": _TIME,
    "final_answer": "5",
    "id": _ID,
    "meta": {"source": "example"},
    "prompt": "What is 2 + 3?",
    "steps": [{"content": "2 plus 3 is 5", "i": 0, "type": "reason"}],
    "trace_version": "1.0",
}
_METRIC = 'tuneloop_http_requests_total{method="GET",route="/healthz",status="200"} 3.0\n'


def _line(value: object) -> str:
    return json.dumps(value) + "\n"


@dataclass(frozen=True)
class Operation:
    """What a row says of one operation."""

    replies: Mapping[str, Any]
    """Example of the successful reply by media type; empty for one without a body."""
    refusals: tuple[int, ...] = ()
    """Beside those that any operation can end in: 500, and 401, 403, 429 where there are tokens."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Example of the body by media type."""
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What to say of a parameter; its schema and default are merged with the generated ones."""
    idempotent: bool = False
    """Whether it takes an Idempotency-Key."""


def _parameter(description: str, example: object, **schema: Any) -> dict[str, Any]:
    return {"description": description, "example": example, "schema": schema}


_TRACE_ID = {"trace_id": _parameter("The id of a stored trace.", _ID)}
_KEY = {
    "key": _parameter(
        "The dataset_key of a build reply.",
        "sums-v1",
        type="string",
        pattern="^[A-Za-z0-9._-]+$",
        minLength=1,
        maxLength=200,
    )
}
_PAGE = {
    "limit": _parameter("Traces at most.", 20, minimum=1, maximum=100),
    "offset": _parameter(
        "Traces left out, from the newest; not together with `cursor`.",
        0,
        minimum=0,
        maximum=2**63 - 1,
    ),
    "cursor": _parameter(
        "`next_cursor` of an earlier reply.", "dDE3OTUzNDY1MzA1NDYzNzk", type="string"
    ),
    "source": _parameter("Only traces whose `meta.source` is this text.", "example", type="string"),
    "created_after": _parameter(
        "Only traces stored after this moment; with a time zone.",
        _TIME,
        type="string",
        format="date-time",
    ),
}
_SHARE = {
    "format": _parameter("What a record holds.", "trace", type="string"),
    "shard": _parameter("Which reader this is, less than num_shards.", 0, minimum=0),
    "num_shards": _parameter("How many readers share the dataset.", 1, minimum=1),
}
_SHARD = {
    "name": _parameter("A shard's name in the manifest.", _SHARD_NAME, type="string"),
    "range": _parameter("Where to go on, as `bytes=N-`.", "bytes=0-", type="string"),
}
_HEALTHY = {JSON: {"status": "healthy"}}

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("get", "/api/health"): Operation(_HEALTHY),
    ("get", "/healthz"): Operation(_HEALTHY),
    ("get", "/readyz"): Operation(
        {JSON: {"status": "ready", "database": "ok", "artifacts": "ok"}}, (503,)
    ),
    ("get", "/metrics"): Operation({TEXT: _METRIC, OPENMETRICS: f"{_METRIC}# EOF\n"}),
    ("post", "/api/traces"): Operation(
        {JSON: _CREATED}, (400, 409, 413, 422, 503), {JSON: _TRACE}, idempotent=True
    ),
    ("get", "/api/traces"): Operation(
        {
            JSON: {
                "data": [_CREATED],
                "pagination": {"limit": 20, "offset": 0, "next_offset": None, "next_cursor": None},
            }
        },
        (422, 503),
        parameters=_PAGE,
    ),
    ("post", "/api/traces/batch"): Operation(
        {JSON: {"created_count": 1, "traces": [_CREATED]}},
        (400, 409, 413, 422, 503),
        {JSON: [_TRACE], request_parsing.NDJSON: _line(_TRACE)},
        idempotent=True,
    ),
    ("get", "/api/traces/compare"): Operation(
        {JSON: {"base": _SCORED, "other": {**_SCORED, "id": _OTHER_ID}}},
        (404, 422, 503),
        parameters={
            "base": _parameter("The id of one trace.", _ID),
            "other": _parameter("The id of the other.", _OTHER_ID),
        },
    ),
    ("get", "/api/traces/{trace_id}"): Operation(
        {JSON: _DETAIL}, (404, 422, 503), parameters=_TRACE_ID
    ),
    ("delete", "/api/traces/{trace_id}"): Operation({}, (404, 422, 503), parameters=_TRACE_ID),
    ("post", "/api/traces/{trace_id}/score"): Operation(
        {
            JSON: {
                "trace_id": _ID,
                "score": 5.65,
                "details": {
                    "step_count": 1,
                    "avg_step_length": 13.0,
                    "total_chars": 13,
                    "step_score": 5.0,
                    "length_score": 1.3,
                    "criteria": "baseline",
                    "scored_at": _TIME,
                },
            }
        },
        (400, 404, 422, 503),
        {JSON: {"criteria": "baseline"}},
        _TRACE_ID,
    ),
    ("post", "/api/datasets/build"): Operation(
        {JSON: _BUILT}, (400, 409, 413, 422, 503), {JSON: _BUILD}
    ),
    ("get", "/api/datasets"): Operation({JSON: [_LISTED]}, (503,)),
    ("get", "/api/datasets/{key}"): Operation({JSON: _MANIFEST}, (404, 422, 503), parameters=_KEY),
    ("delete", "/api/datasets/{key}"): Operation({}, (404, 422, 503), parameters=_KEY),
    ("get", "/api/datasets/{key}/export.jsonl"): Operation(
        {request_parsing.NDJSON: _line(_EXPORTED)}, (404, 422, 503), parameters={**_KEY, **_SHARE}
    ),
    ("get", "/api/datasets/{key}/shards/{name}"): Operation(
        {request_parsing.NDJSON: _line(_ROW)}, (404, 416, 422, 503), parameters={**_KEY, **_SHARD}
    ),
}

_REFUSALS: Mapping[int, tuple[str, str]] = {
    400: ("The body is no batch, or did not arrive whole", "Batch must contain at least one trace"),
    401: ("No token, or an unknown one", "Unknown or missing token"),
    403: ("The token's role is not enough", "Token ci has role read, this needs write"),
    404: ("There is no such thing", f"Trace {_ID} not found"),
    409: (
        "The key is taken by other content",
        "dataset sums-v1: seed is 8, but it was built with 7; a dataset never changes, use another"
        " dataset_version",
    ),
    416: ("The file has no such bytes", f"{_SHARD_NAME} has 1048 bytes"),
    413: ("The body is too long", "Payload size exceeds maximum of 1048576 bytes"),
    422: ("The request is faulty", "limit must be between 1 and 100"),
    429: ("Too many refused tokens from this address", "Too many refused tokens; wait"),
    500: ("What the store keeps is damaged, or a bug", "Internal Server Error"),
    503: ("The store cannot work now", "The store is busy; try again later"),
}
_FAULTS = {
    "detail": [
        {
            "type": "string_too_short",
            "loc": ["body", 0, "prompt"],
            "msg": "String should have at least 1 character",
            "input": "",
            "ctx": {"min_length": 1},
        }
    ]
}
_SCHEMAS: Mapping[str, Any] = {
    "Failure": {
        "type": "object",
        "description": "Why there is no other reply, in a sentence.",
        "required": ["detail"],
        "properties": {"detail": {"type": "string"}},
    },
    "Faults": {
        "type": "object",
        "description": "What is wrong with a request, fault by fault, a hundred at most.",
        "required": ["detail"],
        "properties": {
            "detail": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}}
        },
    },
    "Fault": {
        "type": "object",
        "required": ["type", "loc", "msg"],
        "properties": {
            "type": {"type": "string", "description": "Pydantic's name of the fault."},
            "loc": {
                "type": "array",
                "items": {"type": ["string", "integer"]},
                "description": "Where it is, from `body`, `path` or `query` on.",
            },
            "msg": {"type": "string"},
            "input": {"description": "What was found there, cut if it is long."},
            "ctx": {"type": "object", "description": "What was expected."},
        },
    },
}
_HEADERS: Mapping[str, Any] = {
    "X-Request-ID": {
        "description": "Names the request in the store's log.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
        "example": "3f6c0f6e3b0a4f0e8d0b8d7d9e8f1a2b",
    },
    "Retry-After": {
        "description": "Seconds after which trying again can help.",
        "schema": {"type": "integer", "minimum": 1},
        "example": 5,
    },
    "WWW-Authenticate": {
        "description": "How to say who asks.",
        "schema": {"type": "string"},
        "example": "Bearer",
    },
}
_LIMITS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_OWN_HEADERS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes a retry safe: the same key with the same traces stores them once and gets"
    " the first reply again; with other traces it is refused with 409.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "example": "file/3c1f/0",
}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token of `tuneloop tokens new`; GET needs the role read, POST write, DELETE"
    " admin. A store without tokens on loopback asks for none.",
}


def install(
    app: FastAPI, *, guarded: bool, formats: Collection[str], recipes: Collection[str]
) -> None:
    """Complete the application's document.

    Args:
        app: the application.
        guarded: whether it has tokens.
        formats: what an export may ask for.
        recipes: what a build may ask for.
    """
    generate = app.openapi

    def complete() -> dict[str, Any]:
        document = describe(copy.deepcopy(generate()), guarded=guarded)
        paths = document["paths"]
        export = paths["/api/datasets/{key}/export.jsonl"]["get"]
        (asked,) = (one for one in export["parameters"] if one["name"] == "format")
        asked["schema"]["enum"] = sorted(formats)
        build = document["components"]["schemas"]["BuildRequest"]
        build["properties"]["recipe"]["enum"] = sorted(recipes)
        return document

    app.openapi = complete  # type: ignore[method-assign]


def describe(document: dict[str, Any], *, guarded: bool) -> dict[str, Any]:
    """Complete a generated document in place."""
    document["info"]["description"] = DESCRIPTION
    components = document["components"]
    for replaced in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(replaced, None)
    components["schemas"].update(copy.deepcopy(dict(_SCHEMAS)))
    components["schemas"]["BuildRequest"] = _schema_of_a_build()
    components["headers"] = copy.deepcopy(dict(_HEADERS))
    components["responses"] = {f"Refused{code}": _refusal(code) for code in _REFUSALS}
    components["securitySchemes"] = {"bearer": _BEARER}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            row = OPERATIONS.get((method, path), Operation({}))
            _describe_operation(operation, row, is_open=path in OPEN_PATHS, guarded=guarded)
    _restore_integers(document)
    return document


def _schema_of_a_build() -> dict[str, Any]:
    """No endpoint takes or gives one by type, so that FastAPI does not know it."""
    schema = BuildRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)  # JsonValue, which is there already
    return schema


def _restore_integers(node: Any) -> None:
    """FastAPI makes floats of limits; of 2**63 readers then make another number."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in _LIMITS and isinstance(value, float) and value.is_integer():
                node[name] = int(value)
            else:
                _restore_integers(value)
    elif isinstance(node, list):
        for value in node:
            _restore_integers(value)


def _refusal(code: int) -> dict[str, Any]:
    description, detail = _REFUSALS[code]
    schema: dict[str, Any] = {"$ref": "#/components/schemas/Failure"}
    examples: dict[str, Any] = {"sentence": {"value": {"detail": detail}}}
    if code == 422:
        schema = {"anyOf": [schema, {"$ref": "#/components/schemas/Faults"}]}
        examples["faults"] = {"value": _FAULTS}
    names = ["X-Request-ID", *([_OWN_HEADERS[code]] if code in _OWN_HEADERS else [])]
    return {
        "description": description,
        "headers": _header_refs(*names),
        "content": {JSON: {"schema": schema, "examples": examples}},
    }


def _header_refs(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _describe_operation(
    operation: dict[str, Any], row: Operation, *, is_open: bool, guarded: bool
) -> None:
    bearer: list[dict[str, list[str]]] = [{"bearer": []}]
    operation["security"] = [] if is_open else bearer if guarded else [{}, *bearer]
    _describe_parameters(operation, row)
    for media_type, example in row.request.items():
        operation["requestBody"]["content"][media_type]["example"] = example
    responses = operation["responses"]
    for code, response in responses.items():
        response["headers"] = _header_refs("X-Request-ID")
        if code.startswith("2") and row.replies:
            response["content"] = _content(response.get("content", {}), row.replies)
    if "503" in responses:  # the probe's own, which is not a sentence
        own = {"status": "not ready", "database": "unavailable", "artifacts": "ok"}
        schema = {"type": "object", "additionalProperties": {"type": "string"}}
        responses["503"]["content"] = {JSON: {"schema": schema, "example": own}}
    for code in (*row.refusals, 500, *(() if is_open else (401, 403, 429))):
        if code == 422 or str(code) not in responses:
            responses[str(code)] = {"$ref": f"#/components/responses/Refused{code}"}


def _content(generated: dict[str, Any], examples: Mapping[str, Any]) -> dict[str, Any]:
    text = {"schema": {"type": "string"}}
    return {
        media_type: {
            **(generated.get(JSON, {}) if media_type == JSON else text),
            "example": example,
        }
        for media_type, example in examples.items()
    }


def _describe_parameters(operation: dict[str, Any], row: Operation) -> None:
    for parameter in operation.get("parameters", ()):
        said = row.parameters.get(parameter["name"], {})
        schema = {**parameter["schema"], **said.get("schema", {})}
        if "type" in schema:  # a query cannot hold null: it is left out
            schema.pop("anyOf", None)
        parameter.update({**said, "schema": schema})
    if row.idempotent:
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
