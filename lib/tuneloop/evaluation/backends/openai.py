"""Ask a server with OpenAI's protocol of chat completions."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx

from tuneloop.errors import DataError, PermissionDenied, Transient, Unavailable, UsageError
from tuneloop.evaluation.backends.schema import ServerAnswer, ServerQuestion
from tuneloop.http_retries import TryAgain, is_temporary, retry_after_seconds, retrying
from tuneloop.http_settings import make_client
from tuneloop.settings import credentials
from tuneloop.settings.environment import read_settings, variable
from tuneloop.specs.answer_backend import BackendSpec

KEY_ENV, KEY_FILE_ENV = variable("eval_api_key"), variable("eval_api_key_file")
"""Variables with the API key, and with the path of a file that holds it."""
MAX_REPLY_BYTES = 64 << 20
CONNECT_SECONDS = 10.0
DESCRIBE_SECONDS = 10.0
"""Time limit of the requests that ask for the server's version."""
END_SECONDS = 2.0
"""Time limit of the requests in flight after one has failed for good."""
MAX_PAUSE_SECONDS = 30.0
_DETAIL_CHARS = 300
_REASONING = ("reasoning_content", "reasoning")
"""Keys of a message in which servers such as vLLM and Ollama send reasoning apart from the text."""
_Job = tuple[Future[ServerAnswer], ServerQuestion]


def open_openai(spec: BackendSpec, env: Mapping[str, str]) -> OpenAiServer:
    """Return a client of the server; no request is sent."""
    return OpenAiServer(spec, _api_key(env))


def _api_key(env: Mapping[str, str]) -> str | None:
    settings = read_settings(env)
    if settings.eval_api_key_file is not None:
        key = credentials.read(Path(settings.eval_api_key_file))
        if key is None:
            raise UsageError(
                f"{KEY_FILE_ENV}: {settings.eval_api_key_file} is missing or empty, expected a file"
                " with an API key; correct the variable, or unset it"
            )
        return key
    return None if settings.eval_api_key is None else settings.eval_api_key.get_secret_value()


class OpenAiServer:
    """A client of one server."""

    def __init__(self, spec: BackendSpec, api_key: str | None) -> None:
        """Create a client without sending a request.

        Args:
            spec: address, limits and times.
            api_key: key that is sent with each request; None sends none.
        """
        self._spec = spec
        self.place = spec.url.rstrip("/")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = make_client(
            httpx.URL(spec.url),
            headers=headers,
            timeout=httpx.Timeout(spec.reply_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=spec.concurrency),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(
        self, model: str, questions: Iterable[ServerQuestion]
    ) -> Generator[ServerAnswer, None, None]:
        """Yield the answers in the order of the questions, with several requests in flight.

        Args:
            model: name of the model on the server.
            questions: what to ask.

        Raises:
            Transient: the server does not answer, or not in time.
            Unavailable: its replies are not those of the protocol.
            PermissionDenied: it refuses the key.
            DataError: it refuses a question, such as one that is too long.
        """
        stop, todo = threading.Event(), queue.SimpleQueue[_Job | None]()
        # Daemon threads: the process can end although a server is silent.
        workers = [
            threading.Thread(target=self._work, args=(model, todo, stop), daemon=True)
            for _ in range(self._spec.concurrency)
        ]
        for worker in workers:
            worker.start()
        waiting: deque[Future[ServerAnswer]] = deque()
        try:
            for question in questions:
                waiting.append(Future())
                todo.put((waiting[-1], question))
                # As many again wait for a free thread, so that a slow answer stops no other.
                if len(waiting) >= 2 * len(workers):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            stop.set()
            for _ in workers:
                todo.put(None)
            deadline = time.monotonic() + END_SECONDS
            for worker in workers:
                worker.join(max(0.0, deadline - time.monotonic()))

    def _work(
        self, model: str, todo: queue.SimpleQueue[_Job | None], stop: threading.Event
    ) -> None:
        while (job := todo.get()) is not None and not stop.is_set():
            future, question = job
            try:
                future.set_result(self._answer(model, question, stop))
            except BaseException as e:  # the thread that waits for the answer raises it
                future.set_exception(e)

    def describe(self) -> str:
        """Return address, software and version as the server reports them, on one line.

        A server without an answer is described by its address.
        """
        found = [self.place]
        with contextlib.suppress(httpx.HTTPError, ValueError):
            reply = self._http.get(f"{self.place}/models", timeout=DESCRIBE_SECONDS)
            if server := reply.headers.get("server"):
                found.append(server)
        with contextlib.suppress(httpx.HTTPError, ValueError):
            # vLLM has its version here, beside the protocol.
            url = httpx.URL(self.place).join("/version")
            version = self._http.get(url, timeout=DESCRIBE_SECONDS).json()
            if isinstance(version, dict) and isinstance(version.get("version"), str):
                found.append(f"version {version['version']}")
        return " ".join(" ".join(found).split())[:_DETAIL_CHARS]

    def _answer(self, model: str, question: ServerQuestion, stop: threading.Event) -> ServerAnswer:
        body: dict[str, Any] = {
            "model": model,
            "messages": question.messages,
            self._spec.limit_key: question.max_new_tokens,
            "temperature": question.temperature,
        }
        if question.seed is not None:
            body["seed"] = question.seed
        if question.tools:
            body["tools"] = question.tools
        # Escaped, because half of a surrogate pair cannot be sent as UTF-8.
        content = json.dumps(body).encode()
        send = retrying(self._spec.retry_seconds, stop, MAX_PAUSE_SECONDS)
        try:
            return send(self._post, content, question)
        except TryAgain as e:
            raise Transient(
                f"{self.place}: no answer to a question: {e}, for {self._spec.retry_seconds:g}"
                " seconds; check that the server runs, lower backend.concurrency, or raise"
                " backend.retry_seconds; run again to continue"
            ) from e

    def _post(self, content: bytes, question: ServerQuestion) -> ServerAnswer:
        try:
            status, headers, data = self._exchange(content)
        except httpx.TimeoutException:
            raise TryAgain("it timed out") from None
        except httpx.TransportError as e:
            raise TryAgain(f"the connection failed ({type(e).__name__})") from None
        if is_temporary(status):
            raise TryAgain(
                f"it answers with status {status}",
                retry_after_seconds(headers.get("Retry-After", "")),
            )
        if status in (401, 403):
            raise PermissionDenied(
                f"{self.place}: refused the request with status {status}; set {KEY_ENV} or"
                f" {KEY_FILE_ENV} to a key with access to the model"
            )
        if status in (400, 413, 422):
            raise DataError(
                f"{self.place}: refused a question with status {status}: {_message(data)}; shorten"
                " the question, lower its max_new_tokens, or correct the spec's backend"
            )
        if status != httpx.codes.OK:
            raise Unavailable(
                f"{self.place}: answered with status {status}: {_message(data)}; expected a"
                " server with the protocol of OpenAI that has the model; correct backend.url"
                " or backend.models"
            )
        return _read(data, question.max_new_tokens)

    def _exchange(self, content: bytes) -> tuple[int, httpx.Headers, bytes]:
        """Send a question; returns status, headers and body of the reply."""
        deadline = time.monotonic() + self._spec.reply_seconds
        url = f"{self.place}/chat/completions"
        headers = {"Content-Type": "application/json"}
        data = bytearray()
        with self._http.stream("POST", url, content=content, headers=headers) as response:
            for block in response.iter_bytes():
                data += block
                if len(data) > MAX_REPLY_BYTES:
                    raise Unavailable(
                        f"{self.place}: sent more than {MAX_REPLY_BYTES >> 20} MiB, expected one"
                        " answer; correct backend.url"
                    )
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the reply is not complete")
        return response.status_code, response.headers, bytes(data)


def _read(data: bytes, max_new_tokens: int) -> ServerAnswer:
    """Read an answer.

    Raises:
        TryAgain: it is not an answer, as from a proxy that has lost its server.
    """
    try:
        reply = json.loads(data)
        choice = reply["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        text, thoughts = message.get("content"), [message.get(key) for key in _REASONING]
        used = (reply.get("usage") or {}).get("completion_tokens")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise TryAgain("its reply is not a chat completion") from None
    if text is not None and not isinstance(text, str):
        raise TryAgain("its reply has a content that is not text")
    text = _with_reasoning(text or "", thoughts)
    tokens = used if isinstance(used, int) and not isinstance(used, bool) and used >= 0 else None
    if reason is None:
        return ServerAnswer(text, tokens, tokens is not None and tokens >= max_new_tokens)
    return ServerAnswer(text, tokens, hit_limit=reason == "length")


def _with_reasoning(text: str, thoughts: Sequence[Any]) -> str:
    """Put reasoning that a server sends apart before the text, as answers of the stages have it."""
    thought = next((each for each in thoughts if isinstance(each, str) and each.strip()), None)
    if thought is None:
        return text
    opened = "<think>\n" + thought.strip("\n")
    return f"{opened}\n</think>\n\n{text}" if text else opened


def _message(data: bytes) -> str:
    """Return the error message of a reply, on one line."""
    try:
        value = json.loads(data)
        detail = value.get("error", value.get("message", value.get("detail")))
        detail = detail.get("message") if isinstance(detail, dict) else detail
    except (ValueError, AttributeError, RecursionError):
        detail = None
    text = str(detail or data[:_DETAIL_CHARS].decode("utf-8", "replace") or "no message")
    return " ".join(text.split())[:_DETAIL_CHARS].rstrip(".;")
