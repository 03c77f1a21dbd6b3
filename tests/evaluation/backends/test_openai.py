"""A real server on loopback: answers, limits, faults that pass and faults that stay."""

from __future__ import annotations

import platform
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.evaluation.backends.server import Fault, Handler, Served, completion, serving
from tuneloop.errors import (
    DataError,
    PermissionDenied,
    Transient,
    TuneloopError,
    Unavailable,
    UsageError,
)
from tuneloop.evaluation.backends import openai
from tuneloop.evaluation.backends.schema import ServerAnswer, ServerQuestion
from tuneloop.evaluation.backends.table import open_backend
from tuneloop.specs.answer_backend import BackendSpec


def question(text: str, **changes: Any) -> ServerQuestion:
    return ServerQuestion(
        messages=[{"role": "user", "content": text}], **{"max_new_tokens": 8, **changes}
    )


def spec_of(url: str, **changes: Any) -> BackendSpec:
    value = {"kind": "openai", "url": url, "models": {"tuned": "m"}, "retry_seconds": 5}
    return BackendSpec.model_validate({**value, **changes})


def ask(server: Served, *questions: ServerQuestion, **changes: Any) -> list[ServerAnswer]:
    spec = spec_of(server.url, **changes)
    with closing(open_backend(spec, {"TUNELOOP_EVAL_API_KEY": "k-123"})) as backend:
        return list(backend.ask("m", questions))


def describe(url: str) -> str:
    with closing(open_backend(spec_of(url), {})) as backend:
        return backend.describe()


def first_then_fine(fault: Fault) -> Fault:
    return lambda handler, number: number == 0 and fault(handler, number)


def test_answers_keep_the_order_and_several_are_asked_at_once() -> None:
    gate = threading.Barrier(3, timeout=5)

    def wait_for_others(handler: Handler, number: int) -> bool:
        if number < 3:
            gate.wait()
        return False

    texts = [f"frage {n} é 🧮 \ud83e" for n in range(20)]
    with serving(wait_for_others) as server:
        found = ask(server, *map(question, texts), concurrency=3)
        assert [each.text for each in found] == [text.upper() for text in texts]
        assert server.most_at_once == 3
        assert set(server.keys) == {"Bearer k-123"}
        python = platform.python_version()
        expected = f"{server.url} BaseHTTP/0.6 Python/{python} version 0.11.0"
        assert describe(server.url) == expected


def test_a_request_says_what_the_answer_depends_on() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]
    asked = ServerQuestion(messages, 8, temperature=0.5, seed=7)
    with serving() as server:
        ask(server, asked, limit_key="max_completion_tokens")
        ask(server, question("x"))
    first, second = server.bodies
    assert first == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
        ],
        "max_completion_tokens": 8,
        "temperature": 0.5,
        "seed": 7,
    }
    assert (second["temperature"], second["max_tokens"]) == (0, 8) and "seed" not in second


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (completion("a", "length", 8), ServerAnswer("a", 8, hit_limit=True)),
        (completion("a", "stop", 8), ServerAnswer("a", 8, hit_limit=False)),
        (completion("a", None, 8), ServerAnswer("a", 8, hit_limit=True)),
        (completion("a", None, None), ServerAnswer("a", None, hit_limit=False)),
        (completion("a", "stop", -1), ServerAnswer("a", None, hit_limit=False)),
        (completion(None, "content_filter"), ServerAnswer("", 3, hit_limit=False)),
        (
            completion("4", reasoning_content="2 + 2\n"),
            ServerAnswer("<think>\n2 + 2\n</think>\n\n4", 3, hit_limit=False),
        ),
        (completion("4", reasoning="\n"), ServerAnswer("4", 3, hit_limit=False)),
        (
            completion(None, "length", reasoning_content=None, reasoning="2 + 2"),
            ServerAnswer("<think>\n2 + 2", 3, hit_limit=True),
        ),
    ],
)
def test_stop_reasons_and_missing_usage(reply: Any, expected: ServerAnswer) -> None:
    def answer(handler: Handler, number: int) -> bool:
        handler.send(200, reply)
        return True

    with serving(answer) as server:
        assert ask(server, question("x")) == [expected]


def cut(handler: Handler, number: int) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True
    return True


def close_at_once(handler: Handler, number: int) -> bool:
    handler.close_connection = True
    return True


def slow(handler: Handler, number: int) -> bool:
    time.sleep(0.6)
    return False


def drip(handler: Handler, number: int) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(8):
        handler.wfile.write(b" ")
        time.sleep(0.1)
    handler.close_connection = True
    return True


def answers_with(status: int, value: Any, **headers: str) -> Fault:
    def fault(handler: Handler, number: int) -> bool:
        handler.send(status, value, **headers)
        return True

    return fault


@pytest.mark.parametrize(
    "fault",
    [
        answers_with(429, {"error": {"message": "slow down"}}, Retry_After="0"),
        answers_with(503, b"", Retry_After="Sat, 28 Nov 2020 12:00:00 GMT"),
        answers_with(500, b"<html>Internal Server Error", Retry_After="0"),
        cut,
        close_at_once,
        slow,
        drip,
        answers_with(200, b"<html>proxy"),
        answers_with(200, {"choices": []}),
        answers_with(200, [1]),
        answers_with(200, b"[" * 100_000),
        answers_with(200, completion(["a"])),  # type: ignore[arg-type]
    ],
)
def test_faults_that_pass_are_not_seen(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "MAX_PAUSE_SECONDS", 0.01)
    with serving(first_then_fine(fault)) as server:
        assert ask(server, question("x"), reply_seconds=0.3)[0].text == "X"
        assert len(server.bodies) == 2


def test_retry_after_is_waited_for_and_a_pause_ends_with_the_stage() -> None:
    fault = first_then_fine(answers_with(429, b"", Retry_After="1"))
    with serving(fault) as server:
        since = time.monotonic()
        ask(server, question("x"))
        assert time.monotonic() - since >= 1
    # A server that asks for more patience than the spec has is not waited for.
    with serving(answers_with(429, b"", Retry_After="99")) as server:
        since = time.monotonic()
        with pytest.raises(Transient, match="it answers with status 429, for 5 seconds"):
            ask(server, *[question("x")] * 40)
        assert time.monotonic() - since < 4


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (answers_with(401, b""), PermissionDenied, "set TUNELOOP_EVAL_API_KEY"),
        (
            answers_with(400, {"error": {"message": "maximum context\nlength is 64"}}),
            DataError,
            "status 400: maximum context length is 64; shorten",
        ),
        (
            answers_with(404, {"error": {"message": "no model `m`"}}),
            Unavailable,
            "status 404: no model `m`; expected a server",
        ),
        (answers_with(302, b"", Location="http://other/"), Unavailable, "status 302"),
        (answers_with(200, b"<html>"), Transient, "its reply is not a chat completion"),
    ],
)
def test_faults_that_stay_are_one_sentence(
    fault: Fault, error: type[TuneloopError], text: str
) -> None:
    with serving(fault) as server:
        with pytest.raises(error, match=text) as found:
            ask(server, question("x"), retry_seconds=0)
        assert str(found.value).startswith(server.url) and "k-123" not in str(found.value)
        assert len(server.bodies) == 1


def test_nobody_listens() -> None:
    with serving() as server:
        url = server.url
    with pytest.raises(Transient, match=r"the connection failed \(ConnectError\)"):
        ask(server, question("x"), retry_seconds=0)
    assert describe(url) == url


def test_the_key_comes_from_a_variable_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("from-file\n")
    with serving() as server:
        for env in ({}, {openai.KEY_ENV: "v"}, {openai.KEY_FILE_ENV: str(path)}):
            with closing(open_backend(spec_of(server.url), env)) as backend:
                assert [each.text for each in backend.ask("m", [question("x")])] == ["X"]
    assert server.keys == [None, "Bearer v", "Bearer from-file"]
    spec = spec_of("http://h/v1")
    with pytest.raises(UsageError, match="is missing or empty"):
        open_backend(spec, {openai.KEY_FILE_ENV: str(tmp_path / "none")})
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not text"):
        open_backend(spec, {openai.KEY_FILE_ENV: str(path)})
    with pytest.raises(UsageError, match="TUNELOOP_EVAL_API_KEY: has a space"):
        open_backend(spec, {openai.KEY_ENV: "two words"})


@pytest.mark.parametrize(
    "url", ["", "ftp://h/v1", "http://", "http://u:p@h/v1", "https://h/v1?key=s", "http://[::1/v1"]
)
def test_a_url_with_a_credential_or_none_at_all_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        spec_of(url)
