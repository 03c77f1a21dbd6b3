"""Access control with bearer tokens that have roles.

The token file contains sha256 digests, which is enough for tokens of 256 random bits. Tokens are
never stored or logged, and a refusal does not reveal which tokens exist.

Browsers cannot send bearer tokens, so web pages also accept the token as the password of HTTP
Basic, with any user name. The API does not accept HTTP Basic, because a browser adds a stored
password to requests that another site triggers. Forms of web pages may use it
if a page of this store sent them (`same_origin.py`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, get_args

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tuneloop.errors import SpecError, UsageError
from tuneloop.store.middleware.same_origin import is_same_origin
from tuneloop.store.web.render import error_page, is_page

Role = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Roles in ascending order; each role includes the rights of the roles before it."""
OPEN_PATHS = {"/healthz", "/readyz", "/api/health"}
"""Paths of probes, which need no token."""
FAILURES = 10
"""Maximum number of refused tokens per address within FAILURE_SECONDS; then the reply to further
refused tokens is 429. Many clients can share an address, so a valid token always passes."""
FAILURE_SECONDS = 60.0
REMEMBERED_ADDRESSES = 10_000
"""Maximum number of addresses with refused tokens kept in memory; the oldest are dropped."""

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62}) +(read|write|admin) +([0-9a-f]{64})")


@dataclass(frozen=True)
class Token:
    """One line of a token file."""

    name: str
    role: Role
    digest: str


def new_token(name: str, role: Role) -> tuple[str, str]:
    """Create a random token.

    Returns:
        The token, and its line for the token file.

    Raises:
        UsageError: the name has other characters than letters, digits and `._-`.
    """
    token = secrets.token_urlsafe(32)
    line = f"{name} {role} {_digest(token)}"
    if not _LINE.fullmatch(line):
        raise UsageError(
            f"token name {name!r}: expected letters, digits, . _ and -; choose another name"
        )
    return token, line


def parse_tokens(text: str, place: str) -> tuple[Token, ...]:
    """Read a token file: one `NAME ROLE SHA256` per line; blank lines and # comments are ignored.

    Raises:
        SpecError: a line is malformed, a name occurs twice, or there is no token.
    """
    tokens: dict[str, Token] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:  # The message omits the line, which may be a token by mistake.
            raise SpecError(
                f"{place}:{number}: not a token line, expected NAME ROLE SHA256 as `tuneloop tokens"
                " new` prints it; fix the line"
            )
        name, role = found[1], next(role for role in ROLES if role == found[2])
        if name in tokens:
            raise SpecError(f"{place}:{number}: {name} occurs twice; remove one of the lines")
        tokens[name] = Token(name, role, found[3])
    if not tokens:
        raise SpecError(
            f"{place}: the file has no token, expected at least one; create one with"
            " `tuneloop tokens new`"
        )
    return tuple(tokens.values())


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Authorization:
    """ASGI middleware that passes on the requests that the role of a token allows."""

    def __init__(self, app: ASGIApp, tokens: tuple[Token, ...]) -> None:
        """Guard an application."""
        self._app, self._tokens = app, tokens
        self._failures = _Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, 403 or 429, or pass the request on."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        await (self._app if refused is None else refused)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        is_form = scope["method"] == "POST" and is_same_origin(Headers(scope=scope))
        for_browsers = is_page(scope["path"]) and (scope["method"] in ("GET", "HEAD") or is_form)
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        token = self._token_of(given, for_browsers)
        if token is None:
            # Browsers first send requests without a token to learn the scheme. That is no failure.
            if given or not for_browsers:
                address = scope["client"][0] if scope.get("client") else ""
                if (wait := self._failures.seconds_to_wait(address)) > 0:
                    headers = {"Retry-After": str(int(wait) + 1)}
                    return _refuse(scope, 429, "Too many refused tokens; wait", headers)
                self._failures.add(address)
            scheme = 'Basic realm="tuneloop", charset="UTF-8"' if for_browsers else "Bearer"
            headers = {"WWW-Authenticate": scheme}
            return _refuse(scope, 401, "Unknown or missing token", headers)
        # The access log and pages read them.
        scope.setdefault("state", {}).update(token=token.name, role=token.role)
        needed = needed_role(scope["method"])
        if ROLES.index(token.role) < ROLES.index(needed):
            detail = f"Token {token.name} has role {token.role}, this needs {needed}"
            return _refuse(scope, 403, detail, {})
        return None

    def _token_of(self, given: list[bytes], for_browsers: bool) -> Token | None:
        scheme, _, text = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() == b"basic" and for_browsers:
            text = _password(text)
        elif scheme.lower() != b"bearer":
            return None
        digest = hashlib.sha256(text.strip()).hexdigest()
        found = None
        for token in self._tokens:  # All are compared, so that the time reveals nothing.
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def token_name(scope: Scope) -> str | None:
    """Return the name of the token of a request; None if the store has no tokens."""
    name: str | None = scope.get("state", {}).get("token")
    return name


def token_role(scope: Scope) -> Role | None:
    """Return the role of the token of a request; None if the store has no tokens."""
    role: Role | None = scope.get("state", {}).get("role")
    return role


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def needed_role(method: str) -> Role:
    """Return the role that a request method needs."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return "read"
    return "admin" if method == "DELETE" else "write"


class _Failures:
    """Counts refused tokens by address, in windows of FAILURE_SECONDS."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, address: str) -> None:
        with self._lock:
            since, count = self._window(address)
            self._seen[address] = (since, count + 1)
            self._seen.move_to_end(address)
            if len(self._seen) > REMEMBERED_ADDRESSES:
                self._seen.popitem(last=False)

    def seconds_to_wait(self, address: str) -> float:
        with self._lock:
            since, count = self._window(address)
        return since + FAILURE_SECONDS - time.monotonic() if count >= FAILURES else 0.0

    def _window(self, address: str) -> tuple[float, int]:
        now = time.monotonic()
        since, count = self._seen.get(address, (now, 0))
        return (now, 0) if now - since > FAILURE_SECONDS else (since, count)


def _refuse(scope: Scope, status: int, detail: str, headers: dict[str, str]) -> Response:
    if is_page(scope["path"]):
        return error_page(status, f"{detail}.", headers)
    return JSONResponse({"detail": detail}, status, headers)
