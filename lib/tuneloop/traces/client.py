"""Talk to a trace store: patient with a busy one, brief about a missing one.

One rule: every request can be repeated. Batches carry an idempotency key, builds name what they
make, so a lost reply is asked for again and nothing is stored twice.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from tuneloop.errors import DataError, PermissionDenied, SpecError, Unavailable

_RETRIED = frozenset({429, 502, 503, 504})
_ADVICE = "start it with `tuneloop serve`, or set execution.store_url"
_MAX_PAUSE_SECONDS = 5.0
_DETAIL_CHARS = 300
TOKEN_ENV = "TUNELOOP_STORE_TOKEN"
_PAGE_TRACES = 100
_STREAMED_BYTES = 1 << 20
_Answer = TypeVar("_Answer")
_BUILD_SECONDS = 3600.0
"""A dataset of ten million traces takes minutes, and the store replies at its end."""


class _Again(Exception):
    """One try failed in a way that another may not."""

    def __init__(self, reason: str, *, after_seconds: float | None) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class TraceClient:
    """A trace store at a URL."""

    def __init__(
        self,
        url: str,
        *,
        connect_seconds: float = 5.0,
        retry_seconds: float = 30.0,
        timeout_seconds: float = 120.0,
        token: str | None = None,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            url: such as `http://127.0.0.1:8000`.
            connect_seconds: how long to try while the store has never answered.
            retry_seconds: how long to try once it has.
            timeout_seconds: how long to wait for the reply to one request.
            token: of the store; None: what TUNELOOP_STORE_TOKEN holds, if anything.
        """
        parsed = _parse_url(url)
        self.place = str(parsed.copy_with(username=None, password=None)).rstrip("/")
        self._connect_seconds = connect_seconds
        self._retry_seconds = retry_seconds
        self._timeout_seconds = timeout_seconds
        self._answered = False
        token = token or os.environ.get(TOKEN_ENV)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=parsed, headers=headers)

    def __enter__(self) -> TraceClient:
        """Use as a context manager to close connections at the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close connections."""
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def health(self) -> None:
        """Return if the store answers.

        Raises:
            Unavailable: it does not.
        """
        self._request("GET", "/api/health")

    def post_batch(self, traces: Sequence[Mapping[str, Any]], key: str) -> list[str]:
        """Store traces, all or none.

        Args:
            traces: 1 to 1000 of them.
            key: idempotency key; the same key with the same traces stores nothing new.

        Returns:
            Their ids, in order.
        """
        reply = self._request(
            "POST", "/api/traces/batch", self._dump(traces), {"Idempotency-Key": key}
        )
        items = reply.get("traces")
        listed = items if isinstance(items, list) else []
        ids = [str(item["id"]) for item in listed if isinstance(item, dict) and "id" in item]
        if len(ids) != len(traces):
            raise Unavailable(
                f"{self.place}: stored {len(ids)} traces, expected {len(traces)};"
                " check that execution.store_url is a trace store"
            )
        return ids

    def iter_traces(
        self, *, limit: int | None = None, source: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Ids, times and versions of traces, newest first, page by page.

        Args:
            limit: traces at most; None: all.
            source: only those whose meta.source is this.
        """
        left = math.inf if limit is None else limit
        cursor: str | None = None
        while left > 0:
            query = {"limit": str(int(min(left, _PAGE_TRACES)))}
            query |= {} if source is None else {"source": source}
            query |= {} if cursor is None else {"cursor": cursor}
            reply = self._request("GET", f"/api/traces?{urlencode(query)}")
            yield from reply["data"]
            left -= len(reply["data"])
            cursor = reply["pagination"]["next_cursor"]
            if cursor is None:
                return

    def get_trace(self, trace_id: str) -> dict[str, Any]:
        """One trace with all it holds."""
        return self._request("GET", f"/api/traces/{trace_id}")

    def build_dataset(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Publish a dataset, or find the same one; the store's reply."""
        body = self._dump(request)
        return self._request("POST", "/api/datasets/build", body, reply_seconds=_BUILD_SECONDS)

    def get_manifest(self, key: str) -> bytes:
        """A dataset's manifest, as JSON; its reader checks it."""
        return self._dump(self._request("GET", f"/api/datasets/{quote(key, safe='')}"))

    def iter_dataset_shard(self, key: str, name: str) -> Iterator[bytes]:
        """Stream a file of a dataset; a connection that breaks is made again where it broke.

        Args:
            key: the dataset's.
            name: of the shard, as the manifest has it.
        """
        path = f"/api/datasets/{quote(key, safe='')}/shards/{quote(name, safe='')}"
        with contextlib.ExitStack() as opened:
            blocks: Iterator[bytes] | None = None
            done = 0

            def next_block() -> bytes:
                nonlocal blocks
                try:
                    if blocks is None:
                        opened.close()
                        headers = {"Range": f"bytes={done}-"} if done else {}
                        blocks = self._open(path, headers, opened).iter_bytes(_STREAMED_BYTES)
                    return next(blocks, b"")
                except httpx.RequestError as e:
                    blocks = None
                    raise _Again(_reason(e), after_seconds=None) from e

            while block := self._patiently(next_block):
                done += len(block)
                yield block

    def _open(
        self, path: str, headers: dict[str, str], opened: contextlib.ExitStack
    ) -> httpx.Response:
        """A response whose body is still on its way; `opened` closes it."""
        timeout = httpx.Timeout(self._timeout_seconds, connect=self._connect_seconds)
        request = self._http.build_request("GET", path, headers=headers, timeout=timeout)
        response = self._send(request, stream=True)
        opened.callback(response.close)
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return httpx.Response(200)  # it broke behind the last byte
        if not response.is_success:
            response.read()
            self._read(response)
        return response

    def _dump(self, value: object) -> bytes:
        """The same bytes in every process, so that a repeated batch is recognised."""
        try:
            text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
            return text.encode()
        except ValueError as e:  # NaN, half of a surrogate pair
            raise DataError(f"{self.place}: cannot be sent: {e}; mend the data") from e

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        reply_seconds: float | None = None,
    ) -> dict[str, Any]:
        request = self._http.build_request(
            method,
            path,
            content=body,
            headers={"Content-Type": "application/json", **(headers or {})},
            timeout=httpx.Timeout(
                reply_seconds or self._timeout_seconds, connect=self._connect_seconds
            ),
        )
        return self._read(self._patiently(lambda: self._send(request)))

    def _patiently(self, call: Callable[[], _Answer]) -> _Answer:
        retrying = Retrying(
            retry=retry_if_exception_type(_Again), stop=self._give_up, wait=_pause, reraise=True
        )
        try:
            return retrying(call)
        except _Again as e:
            raise Unavailable(
                f"{self.place}: the trace store does not answer ({e}); {_ADVICE}"
            ) from e

    def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            response = self._http.send(request, stream=stream)
        except httpx.RequestError as e:
            if not isinstance(e, httpx.ConnectError | httpx.ConnectTimeout):
                self._answered = True
            raise _Again(_reason(e), after_seconds=None) from e
        self._answered = True
        if response.status_code in _RETRIED:
            response.close()
            after_seconds = _seconds(response.headers.get("retry-after", ""))
            raise _Again(f"status {response.status_code}", after_seconds=after_seconds)
        return response

    def _give_up(self, state: RetryCallState) -> bool:
        allowed = self._retry_seconds if self._answered else self._connect_seconds
        elapsed = time.monotonic() - state.start_time
        return elapsed + state.upcoming_sleep > allowed

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        code = response.status_code
        if code in (401, 403):
            raise PermissionDenied(
                f"{self.place}: refused with status {code}; use a token that may, in {TOKEN_ENV}"
            )
        if 400 <= code < 500:
            raise DataError(f"{self.place}: refused with status {code}: {_message(response)}")
        try:
            reply = response.json()
        except ValueError:
            reply = None
        if not response.is_success or not isinstance(reply, dict):
            raise Unavailable(
                f"{self.place}: answered with status {code}, expected the reply of a trace store;"
                " see its log, or check execution.store_url"
            )
        return reply


def _parse_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as e:
        raise SpecError("store URL: cannot be read; use one such as http://127.0.0.1:8000") from e
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SpecError(
            f"store URL: found the scheme {parsed.scheme!r}, expected http or https and a host;"
            " use one such as http://127.0.0.1:8000"
        )
    return parsed


_backoff = wait_random_exponential(multiplier=0.2, max=_MAX_PAUSE_SECONDS)


def _pause(state: RetryCallState) -> float:
    """What the store asked for, else exponential with full jitter, so that clients part."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.after_seconds if isinstance(error, _Again) else None
    return _backoff(state) if asked is None else asked


def _seconds(header: str) -> float | None:
    return float(header) if header.isdecimal() and len(header) < 6 else None


def _reason(error: httpx.RequestError) -> str:
    """Few words; httpx's own can hold the URL with what it contains."""
    if isinstance(error, httpx.TimeoutException):
        return "timed out"
    if "refused" in str(error):
        return "connection refused"
    if isinstance(error, httpx.ConnectError):
        return "cannot connect"
    return "connection lost"


def _message(response: httpx.Response) -> str:
    """What the store says is wrong, on one line."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.reason_phrase
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        where = ".".join(map(str, detail[0].get("loc", [])))
        more = f" (and {len(detail) - 1} more)" if len(detail) > 1 else ""
        detail = f"{where}: {detail[0].get('msg')}{more}"
    return " ".join(str(detail).split())[:_DETAIL_CHARS]
