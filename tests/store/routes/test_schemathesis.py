"""Schemathesis against the application: every reply matches the OpenAPI document.

It sends valid and invalid requests, at the limits and at random. Every run sends the same requests.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation.hypothesis.builder import (
    HypothesisTestConfig,
    HypothesisTestMode,
    create_test,
)
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tuneloop.store.app import ROUTERS
from tuneloop.store.routes import examples

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
"""Checks that must hold for every reply."""

REFUSED_THOUGH_DOCUMENTED = (
    # JSON Schema cannot express these rules, because they relate two values.
    "Step indices must be unique",
    "calls a tool without a name",
    # Only version 1.1 may have no steps, and only after the call of a tool may an answer be empty.
    "List should have at least 1 item after validation, not 0",
    "String should have at least 1 character",
    "cursor and offset exclude each other",
    "shard must be at least 0 and less than num_shards",
    # The content of a cursor is known to the store only.
    "Invalid cursor: expected next_cursor of an earlier reply",
    # A store with tokens takes the name of the token.
    "who is missing: a store without tokens",
    # Limits of JSON texts in bytes.
    "bytes as JSON, at most",
    "compares nothing, expected at least one of",
    "expected a number for min and max",
    "expected a time such as",
    "expected a field of numbers",
    # The result depends on the store's content.
    "Dataset is empty. No traces matched the filters.",
    "selection.datasets: Dataset not found",
)
SETTINGS = settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,  # The two cores are shared with other tests.
    suppress_health_check=list(HealthCheck),  # Limits are tested with large bodies.
)


OPERATIONS = [
    (method.lower(), route.path)  # type: ignore[attr-defined]
    for router in ROUTERS
    for route in router.routes
    for method in route.methods  # type: ignore[attr-defined]
]
EXAMPLE_IDS = (examples.TRACE_ID, examples.OTHER_TRACE_ID)


@schemathesis.serializer("application/x-ndjson")
def one_line(_: Any, value: Any) -> bytes:
    """Build bodies of lines from the documented schema of a line; otherwise none would be sent."""
    return json.dumps(value).encode() + b"\n"


def checks_of(case: schemathesis.Case[Any], response: Any) -> list[Callable[..., Any]]:
    checks: list[Callable[..., Any]] = list(CHECKS)
    if not any(text in response.text for text in REFUSED_THOUGH_DOCUMENTED):
        checks.append(positive_data_acceptance)
    is_lenient = any(f"'{name}': False" in str(case.body) for name in ("i", "seed"))
    if response.status_code != 413 and not is_lenient:
        # Schemathesis does not count 413 as a refusal.
        # Bodies are read as leniently as clients of this API are used to: "3", 3.0 and false are
        # step numbers and seeds too.
        checks.append(negative_data_rejection)
    return checks


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_replies_are_as_documented(
    method: str, path: str, app: FastAPI, http: TestClient, make_trace: Any
) -> None:
    made = http.post("/api/traces/batch", json=[make_trace(n) for n in range(3)]).json()
    ids = [one["id"] for one in made["traces"]]
    http.post("/api/datasets/build", json={"dataset_name": "sums", "dataset_version": "v1"})
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    schema.config.generation.allow_x00 = False  # The document describes this refusal in words only.
    asked: Counter[str | None] = Counter()

    def ask(case: schemathesis.Case[Any]) -> None:
        asked[case.media_type] += 1
        for given in (case.path_parameters, case.query):
            for name, value in given.items():
                if value in EXAMPLE_IDS:  # The dataset exists unless it was deleted before.
                    given[name] = ids[-1]
        response = case.call()
        case.validate_response(response, checks=checks_of(case, response))

    config = HypothesisTestConfig(
        project=schema.config, modes=list(HypothesisTestMode), settings=SETTINGS
    )
    create_test(operation=schema[path][method], test_func=ask, config=config)()
    assert asked.total() >= 10
    body = schema.raw_schema["paths"][path][method].get("requestBody", {"content": {}})
    assert set(body["content"]) <= set(asked)
