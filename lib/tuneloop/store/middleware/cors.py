"""CORS: let web pages of named origins use the store from a browser. None is allowed by default.

Allowed pages cannot use credentials that a browser adds by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from tuneloop.errors import SpecError

ANY = "*"
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")


def check_origins(origins: Sequence[str], *, has_tokens: bool) -> None:
    """Refuse malformed origins, and `*` for a store without tokens.

    Raises:
        SpecError: an origin is refused.
    """
    for origin in origins:
        if origin == ANY and not has_tokens:
            raise SpecError(
                "--cors-origin *: without tokens, every web page open on this machine could read"
                " and write; name the origins, or use --tokens"
            )
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise SpecError(
                f"--cors-origin {origin}: expected SCHEME://HOST or SCHEME://HOST:PORT in lower"
                " case without a path, as browsers send it; fix the option"
            )


def install(app: FastAPI, origins: Sequence[str]) -> None:
    """Allow these origins. Call it after adding authorization, since preflights have no token."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Idempotency-Key", "X-Request-ID"],
        expose_headers=["Retry-After", "X-Request-ID"],
    )
