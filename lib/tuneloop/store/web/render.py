"""Render web pages: templates, security headers, and error pages.

Templates escape all text from traces, files and requests, so it never becomes markup. Pages load
nothing from other sites, and only three pages have scripts: that of an unfinished run, that of a
review, and that of the API. The headers enforce both.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from importlib import resources
from typing import Any

import jinja2
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException

from tuneloop import templating
from tuneloop.errors import TuneloopError
from tuneloop.history.stored import parse_time
from tuneloop.history.units import duration, size
from tuneloop.store.dependencies import Service
from tuneloop.store.web.token_text import hidden_in, parts_of

TEMPLATES = "store/web/templates"
SECTIONS = ("traces", "datasets", "runs", "review")
"""First segments of the paths of web pages."""

_TITLES = {
    401: "Token required",
    404: "Not found",
    405: "Read-only page",
    422: "Invalid request",
    429: "Too many attempts",
    503: "Temporarily unavailable",
}
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}

Handler = Callable[[Request, Exception], Awaitable[Response]]


def is_page(path: str) -> bool:
    """Return whether a path is a web page and not part of the API."""
    return path == "/" or path.removeprefix("/").split("/")[0] in SECTIONS


def security_headers(*, live: bool = False, script: str = "") -> dict[str, str]:
    """Return the security headers of a page.

    Args:
        live: allow the script that updates the page of an unfinished run.
        script: name of a script that the page has and that requests nothing; empty without one.
    """
    allowed = f" script-src 'sha256-{_digest('live.js')}'; connect-src 'self';" if live else ""
    if script:
        allowed = f" script-src 'sha256-{_digest(script)}';"
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{_digest('style.css')}';{allowed} form-action"
            " 'self'; frame-ancestors 'none'; base-uri 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def api_page() -> Response:
    """Render the page of the API. Swagger UI needs its own files, and icons in data URLs."""
    headers = security_headers()
    headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'self'; script-src 'self' 'sha256-{_digest('api.js')}';"
        " img-src data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none';"
        " base-uri 'none'"
    )
    text = fragment("api", script=Markup(_text("api.js")))
    return Response(text.encode(), headers=headers, media_type="text/html")


def page(name: str, status: int = 200, headers: Mapping[str, str] = {}, **values: Any) -> Response:
    """Render a template as a reply.

    Args:
        name: name of the template, without its suffixes.
        status: status code of the reply.
        headers: headers in addition to those of every page.
        values: values for the template.
    """
    return Response(
        fragment(name, **values).encode(),
        status,
        headers={**security_headers(), **headers},
        media_type="text/html",
    )


def fragment(name: str, **values: Any) -> Markup:
    """Render a template as a part of a page; the text can be encoded as UTF-8."""
    text = _environment().get_template(f"{TEMPLATES}/{name}.html.j2").render(values)
    # A run's files may contain half of a surrogate pair, which UTF-8 cannot encode.
    return Markup(text.encode("utf-8", "replace").decode())


def error_page(status: int, sentence: str, headers: Mapping[str, str] = {}) -> Response:
    """Render an error page."""
    title = _TITLES.get(status) or HTTPStatus(status).phrase
    return page("error", status, headers, title=title, sentence=sentence, section="")


def problem(error: TuneloopError, service: Service) -> str:
    """Format an error about a file as a sentence without the server's paths."""
    text = str(error).replace(f"{service.artifacts}/", "")
    if "/" in service.artifacts:  # A name without slashes could be part of any word.
        text = text.replace(service.artifacts, "artifacts")
    return text.rstrip(".") + "."


def install_handlers(app: FastAPI) -> None:
    """Reply with error pages instead of JSON on page paths; call it after all other handlers."""
    for kind in (HTTPException, RequestValidationError, TuneloopError):
        app.add_exception_handler(kind, _for_people(app.exception_handlers[kind]))


def _for_people(reply_in_json: Callable[[Request, Any], Any]) -> Handler:
    async def reply(request: Request, error: Exception) -> Response:
        said: Response = await reply_in_json(request, error)
        if not is_page(request.url.path):
            return said
        detail = json.loads(bytes(said.body) or b"{}").get("detail", "")
        if isinstance(detail, list):
            detail = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in detail)
        headers = {k: v for k, v in said.headers.items() if k in ("retry-after", "allow")}
        return error_page(said.status_code, f"{detail}.", headers)

    return reply


@functools.cache
def _environment() -> jinja2.Environment:
    environment = templating.environment(
        beginning=beginning,
        count=lambda number: f"{number:,}",
        duration=duration,
        size=size,
        hidden=hidden_in,
        token_parts=parts_of,
        visible=visible,
        when=when,
    )
    texts = {"style": Markup(_text("style.css")), "live_script": Markup(_text("live.js"))}
    texts["review_script"] = Markup(_text("review.js"))
    environment.globals = {**environment.globals, **texts}
    environment.tests = {**environment.tests, "blank": is_blank}
    return environment


@functools.cache
def _text(name: str) -> str:
    return (resources.files("tuneloop") / TEMPLATES / name).read_text("utf-8").strip()


@functools.cache
def _digest(name: str) -> str:
    return base64.b64encode(hashlib.sha256(_text(name).encode()).digest()).decode()


def visible(text: str) -> str:
    """Replace control characters by visible symbols (U+2400 and following)."""
    return text.translate(_CONTROLS)


def is_blank(text: str) -> bool:
    """Return whether a text has no visible characters."""
    return not any(char.isprintable() and not char.isspace() for char in visible(text))


def beginning(text: str, length: int = 160) -> str:
    """Shorten a text to one line; returns `(blank)` if it has no visible characters."""
    line = visible(" ".join(text[: 4 * length].split()))
    if is_blank(line):
        return "(blank)"
    return line if len(line) <= length and len(text) <= 4 * length else f"{line[: length - 1]}…"


def when(moment: datetime | str) -> Markup:
    """Format a time to the second for people, with the exact time as an attribute."""
    if isinstance(moment, str):
        found = parse_time(moment)
        if found is None:
            return escape(visible(moment))
        moment = found
    return Markup('<time datetime="{}">{} UTC</time>').format(
        moment.isoformat(), moment.strftime("%Y-%m-%d %H:%M:%S")
    )
