"""Access control of a store without tokens, which only serves programs and pages of this machine.

Web pages of other sites are refused even if they are open in a browser on this machine. Such a page
can reach loopback under its own host name (DNS rebinding), or submit a form without reading the
reply. The headers `Host` and `Origin`, which no page can forge, reveal both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tuneloop.store.web.render import error_page, is_page

_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")


class LoopbackOnly:
    """ASGI middleware that refuses requests from web pages of other origins."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """Guard an application; pages of these origins are allowed."""
        self._app, self._origins = app, frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on."""
        words = self._objection(Headers(scope=scope)) if scope["type"] == "http" else None
        app = self._app if words is None else _refusal(scope["path"], words)
        await app(scope, receive, send)

    def _objection(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if not _HOST.fullmatch(host):
            return "Unknown host name: without tokens, the store only answers requests to localhost"
        if origin is not None and origin not in self._origins and origin != f"http://{host}":
            return "Origin not allowed: name it with --cors-origin, or use --tokens"
        return None


def _refusal(path: str, words: str) -> Response:
    return (
        error_page(403, f"{words}.", {}) if is_page(path) else JSONResponse({"detail": words}, 403)
    )
