"""The page /docs: Swagger UI on the store's OpenAPI document, without a request to another site.

FastAPI's own page loads Swagger UI from a public host. These are the files of the package
fastapi-offline.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response

from tuneloop.store.web.render import api_page, security_headers

router = APIRouter(include_in_schema=False)

_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}


@router.api_route("/docs", methods=["GET", "HEAD"])
async def show_api() -> Response:
    """Show the API."""
    return api_page()


@router.api_route("/docs/{name}", methods=["GET", "HEAD"])
async def show_asset(name: Literal["swagger-ui-bundle.js", "swagger-ui.css"]) -> Response:
    """Send one file of Swagger UI."""
    headers = {**security_headers(), "Cache-Control": "private, max-age=86400"}
    return Response(_read(name), media_type=_TYPES[name], headers=headers)


@functools.cache
def _read(name: str) -> bytes:
    return (resources.files("fastapi_offline") / "static" / name).read_bytes()
