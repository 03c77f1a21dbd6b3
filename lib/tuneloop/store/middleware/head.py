"""Answer HEAD like GET without the body. Pages and streams have routes of their own for it."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneloop.store.web.render import is_page

_STREAM = re.compile(r"/export\.jsonl$|/shards/[^/]*$")
"""Paths whose reply would be rendered only to be dropped."""
_FOUND = ("route", "endpoint", "path_params", "root_path")
"""What routing adds to a scope, which the access log reads."""


class HeadAsGet:
    """ASGI middleware that passes HEAD on as GET and drops the body of the reply."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or _is_left_alone(scope["path"]):
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send_without_body)
        finally:
            scope.update({name: as_get[name] for name in _FOUND if name in as_get})


def _is_left_alone(path: str) -> bool:
    return is_page(path) or bool(_STREAM.search(path))
