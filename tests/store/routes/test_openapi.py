"""The OpenAPI document is valid and complete, and its examples match its schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.store_fixtures import CATALOG
from tuneloop.store.app import ROUTERS, create_app
from tuneloop.store.db.database import Database
from tuneloop.store.middleware.auth import OPEN_PATHS, new_token, parse_tokens


@pytest.fixture
def document(http: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, of_path in document["paths"].items():
        for method, operation in of_path.items():
            yield method, path, operation


def resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def example_of(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """Build the example that readers see, from the schema or from the examples of its fields."""
    if "$ref" in schema and "examples" not in schema:
        return example_of(document, resolved(document, schema))
    for name in ("examples", "enum"):
        if name in schema:
            return schema[name][0]
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if "anyOf" in schema:
        return example_of(document, schema["anyOf"][0])
    if schema["type"] == "array":
        return [example_of(document, schema["items"])]
    assert "properties" in schema, f"no example: {schema}"
    return {name: example_of(document, one) for name, one in schema["properties"].items()}


def contents(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the location and media type object of every documented body."""
    for method, path, operation in operations(document):
        replies = operation["responses"].items()
        found = [(code, resolved(document, reply)) for code, reply in replies]
        if "requestBody" in operation:
            found.append(("request", operation["requestBody"]))
        for what, holder in found:
            for media_type, content in holder.get("content", {}).items():
                yield f"{method} {path} {what} {media_type}", content


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    schema = schemathesis.openapi.from_dict(document)
    schema.validate()
    for name, one in document["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid(one), name


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(found := node.get("$ref"), str):
                yield found
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    found = set(walk(document))
    assert "#/components/schemas/BuildRequest" in found
    for reference in found:
        assert resolved(document, {"$ref": reference}) is not None


def test_limits_are_whole_numbers(document: dict[str, Any]) -> None:
    step = document["components"]["schemas"]["TraceStep"]["properties"]["i"]
    assert (step["exclusiveMaximum"], type(step["exclusiveMaximum"])) == (2**63, int)


def test_every_route_is_documented(app: FastAPI, document: dict[str, Any]) -> None:
    routed = {
        (method.lower(), route.path)  # type: ignore[attr-defined]
        for router in ROUTERS
        for route in router.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    assert {(method, path) for method, path, _ in operations(document)} == routed


def test_nothing_lacks_an_example_or_a_description(document: dict[str, Any]) -> None:
    for _, content in contents(document):
        assert "example" in content or example_of(document, content["schema"])
    for method, path, operation in operations(document):
        place = f"{method} {path}"
        assert operation["summary"], place
        assert operation["description"], place
        assert (method == "post") == ("requestBody" in operation), place
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (place, parameter["name"])
            assert parameter["schema"]["examples"], (place, parameter["name"])
        assert "X-Request-ID" in str(operation["responses"]), place


def test_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    for place, content in contents(document):
        if "ndjson" in place and "request" in place:
            continue  # The schema describes one line, and the example is a list of lines.
        schema = {**content["schema"], "components": document["components"]}
        made = example_of(document, content["schema"]) if "example" not in content else None
        errors = list(jsonschema_rs.iter_errors(schema, content.get("example", made)))
        assert not errors, (place, errors)
    faults = {"$ref": "#/components/schemas/Faults"}
    schema = {**faults, "components": document["components"]}
    assert jsonschema_rs.is_valid(schema, example_of(document, faults))
    for method, path, operation in operations(document):
        for one in operation.get("parameters", ()):
            for value in one["schema"]["examples"]:
                assert jsonschema_rs.is_valid(one["schema"], value), (method, path, one)


def test_request_examples_are_taken(http: TestClient, document: dict[str, Any]) -> None:
    ids = []
    for path in ("/api/traces", "/api/traces/batch", "/api/datasets/build"):
        for media_type, body in document["paths"][path]["post"]["requestBody"]["content"].items():
            headers = {"Content-Type": media_type}
            if media_type == "application/json":
                reply = http.post(path, json=body["example"])
            else:
                reply = http.post(path, content=body["example"], headers=headers)
            assert reply.status_code == 201, (path, media_type, reply.text)
            ids.append(reply.json().get("id"))
    reply = http.get("/api/datasets/sums-v1/export.jsonl")
    assert reply.text.count('"prompts":"What is 2 + 3?"') == 3
    scored = http.post(f"/api/traces/{ids[0]}/score", json={"criteria": "baseline"}).json()
    path = document["paths"]["/api/traces/{trace_id}/score"]["post"]
    schema = path["responses"]["201"]["content"]["application/json"]["schema"]
    example = example_of(document, schema)
    assert {**scored["details"], "scored_at": ""} == {**example["details"], "scored_at": ""}


def test_who_may_ask(document: dict[str, Any], database: Database, artifacts: Path) -> None:
    for method, path, operation in operations(document):
        assert operation["security"] == ([] if path in OPEN_PATHS else [{}, {"bearer": []}])
        asked = {"401", "403", "429"} <= set(operation["responses"])
        assert asked == (path not in OPEN_PATHS), (method, path)
    tokens = parse_tokens(new_token("reader", "read")[1], "tokens")
    guarded = create_app(database, str(artifacts), CATALOG, tokens=tokens).openapi()
    assert guarded["paths"]["/healthz"]["get"]["security"] == []
    assert guarded["paths"]["/api/traces"]["get"]["security"] == [{"bearer": []}]


def test_limits_and_names_are_documented(document: dict[str, Any]) -> None:
    (listing,) = (
        one["schema"]
        for one in document["paths"]["/api/traces"]["get"]["parameters"]
        if one["name"] == "limit"
    )
    assert {"minimum": 1, "maximum": 100, "default": 20}.items() <= listing.items()
    export = document["paths"]["/api/datasets/{key}/export.jsonl"]["get"]
    assert list(export["responses"]["200"]["content"]) == ["application/x-ndjson"]
    (formats,) = (one["schema"]["enum"] for one in export["parameters"] if one["name"] == "format")
    assert formats == ["ids", "trace"]
    post = document["paths"]["/api/traces/batch"]["post"]
    assert post["parameters"][0]["name"] == "Idempotency-Key"
    assert set(post["responses"]) == {
        *("201", "400", "401", "403", "409", "413", "422", "429", "500", "503")
    }
