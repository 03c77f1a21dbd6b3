"""HTTP client of the trace store, with retries.

Every request can be repeated safely: batches have an idempotency key, and builds name the dataset
that they publish. If a reply is lost, the client sends the request again and nothing is stored
twice. The client retries longer once a store has answered than while it cannot be reached.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from tuneloop.errors import DataError, PermissionDenied, SpecError, Unavailable
from tuneloop.http_settings import make_client
from tuneloop.settings import credentials
from tuneloop.settings.environment import read_settings, variable

_RETRIED = frozenset({429, 502, 503, 504})
_ADVICE = "start it with `tuneloop serve`, or set execution.store_url"
_MAX_PAUSE_SECONDS = 5.0
_DETAIL_CHARS = 300
TOKEN_ENV = variable("store_token")
_PAGE_TRACES = 100
_SHARD_BLOCK_BYTES = 1 << 20
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, allow_nan=False).encode
_Answer = TypeVar("_Answer")
_BUILD_SECONDS = 3600.0
"""Time limit for a build reply. A dataset of ten million traces takes minutes, and the store only
replies when it is done."""


class _Again(Exception):
    """A request failed, and a retry may succeed."""

    def __init__(self, reason: str, *, after_seconds: float | None) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class TraceClient:
    """A client of one trace store."""

    def __init__(
        self,
        url: str,
        *,
        connect_seconds: float = 5.0,
        retry_seconds: float = 30.0,
        timeout_seconds: float = 120.0,
        token: str | None = None,
    ) -> None:
        """Create a client without sending a request.

        Args:
            url: address of the store, such as `http://127.0.0.1:8000`.
            connect_seconds: seconds to retry a request while the store has never answered.
            retry_seconds: seconds to retry a request after the store has answered before.
            timeout_seconds: seconds to wait for the reply to one request.
            token: access token of the store; None uses the environment variable
                TUNELOOP_STORE_TOKEN if it is set.
        """
        parsed = _parse_url(url)
        self.place = str(parsed.copy_with(username=None, password=None)).rstrip("/")
        self._connect_seconds = connect_seconds
        self._retry_seconds = retry_seconds
        self._timeout_seconds = timeout_seconds
        self._answered = False
        token = credentials.clean(token, "token") or _own_token()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = make_client(parsed, base_url=parsed, headers=headers)

    def __enter__(self) -> TraceClient:
        """Enter a context that closes the connections when it exits."""
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
        """Check that the store answers.

        Raises:
            Unavailable: the store does not answer.
        """
        self._request("GET", "/api/health")

    def post_batch(self, traces: Sequence[Mapping[str, Any]], key: str) -> list[str]:
        """Store traces, all or none.

        Args:
            traces: 1 to 1000 traces.
            key: idempotency key; repeating the same key and traces stores nothing new.

        Returns:
            The ids of the traces, in order.
        """
        return self.post_dumped([self.dump(trace) for trace in traces], key)

    def post_dumped(self, traces: Sequence[str], key: str) -> list[str]:
        """Store traces that are JSON text from `dump`, as `post_batch` does."""
        body = f"[{', '.join(traces)}]".encode()
        reply = self._request("POST", "/api/traces/batch", body, {"Idempotency-Key": key})
        items = reply.get("traces")
        listed = items if isinstance(items, list) else []
        ids = [str(item["id"]) for item in listed if isinstance(item, dict) and "id" in item]
        if len(set(ids)) != len(traces):
            raise Unavailable(
                f"{self.place}: the reply has {len(set(ids))} trace ids, expected {len(traces)};"
                " check that execution.store_url is a trace store"
            )
        return ids

    def iter_traces(
        self,
        *,
        limit: int | None = None,
        source: str | None = None,
        created_after: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """List ids, times and versions of traces, newest first, one page per request.

        Args:
            limit: maximum number of traces; None lists all.
            source: list only traces with this `meta.source`; None lists all.
            created_after: list only traces stored after this time, such as a `created_at` of an
                earlier reply; None lists all.
        """
        left = math.inf if limit is None else limit
        cursor: str | None = None
        while left > 0:
            query = {"limit": str(int(min(left, _PAGE_TRACES)))}
            query |= {} if source is None else {"source": source}
            query |= {} if created_after is None else {"created_after": created_after}
            query |= {} if cursor is None else {"cursor": cursor}
            reply = self._request("GET", f"/api/traces?{urlencode(query)}")
            yield from reply["data"]
            left -= len(reply["data"])
            cursor = reply["pagination"]["next_cursor"]
            if cursor is None:
                return

    def get_trace(self, trace_id: str) -> dict[str, Any]:
        """Return a trace with its payload."""
        return self._request("GET", f"/api/traces/{trace_id}")

    def check_stored(self, trace_id: str, trace: Mapping[str, Any]) -> None:
        """Check that the store has a trace as it was posted, whatever the reply to it was.

        Raises:
            DataError: the store has no such trace, or another one under this id.
        """
        try:
            payload = self.get_trace(trace_id).get("payload", {})
        except DataError as e:
            raise DataError(
                f"{self.place}: trace {trace_id} was posted and is not in the store; another client"
                " may have deleted it; import the file again"
            ) from e
        names = ("prompt", "final_answer")
        if [payload.get(name) for name in names] != [trace.get(name) for name in names]:
            raise DataError(
                f"{self.place}: trace {trace_id} in the store is not the one that was posted; check"
                " the database"
            )

    def build_dataset(
        self, request: Mapping[str, Any], preview_id: str | None = None
    ) -> dict[str, Any]:
        """Publish a dataset, or find it if it is already published; returns the store's reply.

        Args:
            request: the request; the seed is that of the preview.
            preview_id: id of a preview of the request, which has selected the traces.
        """
        asked = "" if preview_id is None else f"?{urlencode({'preview': preview_id})}"
        path, body = f"/api/datasets/build{asked}", self._dump(request)
        return self._request("POST", path, body, reply_seconds=_BUILD_SECONDS)

    def preview_dataset(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Count what a build would select, rule by rule; returns the store's reply."""
        body = self._dump(request)
        return self._request("POST", "/api/datasets/preview", body, reply_seconds=_BUILD_SECONDS)

    def get_manifest(self, key: str) -> bytes:
        """Return a dataset's manifest as JSON, without validating it."""
        return self._dump(self._request("GET", f"/api/datasets/{quote(key, safe='')}"))

    def iter_dataset_shard(self, key: str, name: str) -> Iterator[bytes]:
        """Stream a shard of a dataset, resuming at the same byte if the connection breaks.

        Args:
            key: key of the dataset.
            name: name of the shard in the manifest.
        """
        path = f"/api/datasets/{quote(key, safe='')}/shards/{quote(name, safe='')}"
        done = 0

        def rest() -> tuple[str, dict[str, str]]:
            return path, {"Range": f"bytes={done}-"} if done else {}

        for block in self.stream(rest, _SHARD_BLOCK_BYTES):
            done += len(block)
            yield block

    def stream(
        self,
        rest: Callable[[], tuple[str, dict[str, str]] | None],
        block_bytes: int | None = None,
    ) -> Iterator[bytes]:
        """Stream a reply in blocks; if the connection breaks, ask for the rest.

        Args:
            rest: returns path and headers of the request for what has not arrived; None if all
                has arrived. It is called before each request.
            block_bytes: size of blocks; None yields what arrives at once.
        """
        with contextlib.ExitStack() as opened:
            blocks: Iterator[bytes] | None = None

            def next_block() -> bytes:
                nonlocal blocks
                try:
                    if blocks is None:
                        opened.close()
                        if (asked := rest()) is None:
                            return b""
                        blocks = self._open(*asked, opened).iter_bytes(block_bytes)
                    return next(blocks, b"")
                except httpx.RequestError as e:
                    blocks = None
                    raise _Again(_reason(e), after_seconds=None) from e

            while block := self._patiently(next_block):
                yield block

    def _open(
        self, path: str, headers: dict[str, str], opened: contextlib.ExitStack
    ) -> httpx.Response:
        """Return a response before its body has arrived; `opened` closes it."""
        timeout = httpx.Timeout(self._timeout_seconds, connect=self._connect_seconds)
        request = self._http.build_request("GET", path, headers=headers, timeout=timeout)
        response = self._send(request, stream=True)
        opened.callback(response.close)
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return httpx.Response(200)  # The connection broke after the last byte.
        if not response.is_success:
            response.read()
            self._read(response)
        return response

    def send(
        self, method: str, path: str, body: object = None, key: str | None = None
    ) -> dict[str, Any]:
        """Send a request that can be repeated safely, and return the reply.

        Args:
            method: the method.
            path: the path with its query, such as `/api/labels?limit=10`.
            body: a JSON value; None sends no body.
            key: idempotency key, which makes a POST safe to repeat.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        content = None if body is None else self._dump(body)
        return self._request(method, path, content, headers)

    def _dump(self, value: object) -> bytes:
        return self.dump(value).encode()

    def dump(self, value: object) -> str:
        """Serialize to the same text in every process, so that repeated batches are recognised.

        Raises:
            DataError: the value has NaN or half of a surrogate pair.
        """
        try:
            text = _encode(value)
            text.encode()
            return text
        except ValueError as e:
            raise DataError(
                f"{self.place}: the request cannot be sent as JSON: {e}; fix the data"
            ) from e

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
                f"{self.place}: the trace store refused the request with status {code}; set"
                f" {TOKEN_ENV} to a token with the necessary rights"
            )
        if 400 <= code < 500:
            raise DataError(
                f"{self.place}: the trace store refused the request with status {code}:"
                f" {_message(response)}"
            )
        try:
            reply = response.json()
        except ValueError:
            reply = None
        if not response.is_success or not isinstance(reply, dict):
            raise Unavailable(
                f"{self.place}: answered with status {code}, expected the reply of a trace store;"
                " see the store's log, or check execution.store_url"
            )
        return reply


def _own_token() -> str | None:
    token = read_settings().store_token
    return None if token is None else token.get_secret_value()


def _parse_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as e:
        raise SpecError(
            "store URL: it is not a valid URL; use one such as http://127.0.0.1:8000"
        ) from e
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SpecError(
            f"store URL: found the scheme {parsed.scheme!r}, expected http or https and a host;"
            " use one such as http://127.0.0.1:8000"
        )
    return parsed


_backoff = wait_random_exponential(multiplier=0.2, max=_MAX_PAUSE_SECONDS)


def _pause(state: RetryCallState) -> float:
    """Return the pause before the next try.

    It is what the store's Retry-After header asks for, or else an exponential pause with full
    jitter, so that many clients do not retry at the same moment.
    """
    error = state.outcome.exception() if state.outcome else None
    asked = error.after_seconds if isinstance(error, _Again) else None
    return _backoff(state) if asked is None else asked


def _seconds(header: str) -> float | None:
    return float(header) if header.isdecimal() and len(header) < 6 else None


def _reason(error: httpx.RequestError) -> str:
    """Describe an error briefly; httpx's own messages can contain the URL with its credentials."""
    if isinstance(error, httpx.TimeoutException):
        return "timed out"
    if "refused" in str(error):
        return "connection refused"
    if isinstance(error, httpx.ConnectError):
        return "cannot connect"
    return "connection lost"


def _message(response: httpx.Response) -> str:
    """Return the error message of the store's reply, on one line."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.reason_phrase
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        where = ".".join(map(str, detail[0].get("loc", [])))
        more = f" (and {len(detail) - 1} more)" if len(detail) > 1 else ""
        detail = f"{where}: {detail[0].get('msg')}{more}"
    return " ".join(str(detail).split())[:_DETAIL_CHARS]
