"""The full store: every recipe can be built, every format can be exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from tuneloop.training.export.formats import EXPORT_FORMATS
from tuneloop.training.prompt_templates import RECIPES


def test_every_recipe_and_format_is_offered(
    store: str, make_trace: Callable[..., dict[str, Any]]
) -> None:
    with httpx.Client(base_url=store) as client:
        assert client.post("/api/traces", json=make_trace()).status_code == 201
        for version, recipe in enumerate(RECIPES):
            request = {"dataset_name": "d", "dataset_version": f"v{version}", "recipe": recipe}
            assert client.post("/api/datasets/build", json=request).status_code == 201, recipe
        for name in EXPORT_FORMATS:
            reply = client.get(f"/api/datasets/d-v0/export.jsonl?format={name}")
            assert (reply.status_code, reply.text.count("\n")) == (200, 1), name
        paths = client.get("/openapi.json").json()["paths"]
        (asked,) = (
            one["schema"]["enum"]
            for one in paths["/api/datasets/{key}/export.jsonl"]["get"]["parameters"]
            if one["name"] == "format"
        )
        assert asked == sorted(EXPORT_FORMATS)
