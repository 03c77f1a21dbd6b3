"""Protection of forms on web pages: other sites cannot submit them in the name of a reader.

A browser adds a stored password to a form that another site submits. It also says where the form
comes from, in headers that no page can change: `Sec-Fetch-Site`, and `Origin` where that is
missing, such as over plain HTTP. Programs send neither; they use the API.
https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tuneloop.store.web.render import error_page, is_page

_SAFE = ("GET", "HEAD", "OPTIONS")
_WORDS = (
    "This form was not sent by a page of this store: open the page again and submit it there."
    " Programs use the API"
)


class SameOriginForms:
    """ASGI middleware that refuses forms of web pages unless a page of this store sent them."""

    def __init__(self, app: ASGIApp) -> None:
        """Guard an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on."""
        is_form = (
            scope["type"] == "http" and scope["method"] not in _SAFE and is_page(scope["path"])
        )
        if is_form and not is_same_origin(Headers(scope=scope)):
            await error_page(403, f"{_WORDS}.")(scope, receive, send)
            return
        await self._app(scope, receive, send)


def is_same_origin(headers: Headers) -> bool:
    """Return whether a browser sent a request from a page of this store."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin, host = headers.get("origin"), headers.get("host")
    return bool(origin and host) and urlsplit(origin or "").netloc.lower() == (host or "").lower()
