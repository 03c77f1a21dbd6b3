"""Requests to a webhook: what is retried, what is not, and what no message reveals."""

from __future__ import annotations

import logging
import socket
import threading
import time

import httpx
import pytest

from tests.runs.notifications.receiver import DRIP, HANG, HANG_UP, receiving
from tuneloop.errors import SpecError, Unavailable
from tuneloop.runs.notifications import webhook
from tuneloop.runs.notifications.webhook import Webhook, webhook_url
from tuneloop.specs.integrations.notifications import WebhookSpec

HEADERS = {"Content-Type": "application/json", "Idempotency-Key": "1"}


def opened(url: str, seconds: float = 5.0) -> Webhook:
    return Webhook(httpx.URL(url), retry_seconds=seconds)


def post(webhook: Webhook, body: bytes = b"{}") -> None:
    webhook.post(body, HEADERS, threading.Event())


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT", httpx.Timeout(0.4))


@pytest.mark.parametrize("answers", [[429], [503, 500], [408, 425], [HANG], [HANG_UP, 502]])
def test_a_temporary_failure_is_retried_with_the_same_request(answers: list[int]) -> None:
    with receiving(*answers) as receiver:
        post(opened(receiver.url), b'{"a": 1}')
    assert len(receiver.requests) == len(answers) + 1
    assert {(each.body, each.headers["Idempotency-Key"]) for each in receiver.requests} == {
        (b'{"a": 1}', "1")
    }


def test_the_pause_that_the_receiver_asks_for_is_kept() -> None:
    with receiving(429, **{"Retry-After": "1"}) as receiver:
        post(opened(receiver.url))
    first, second = (each.at for each in receiver.requests)
    assert second - first >= 1.0


def test_a_pause_beyond_the_limit_ends_the_attempts_at_once() -> None:
    with receiving(429, **{"Retry-After": "900"}) as receiver:
        since = time.monotonic()
        with pytest.raises(Unavailable, match="answered with status 429"):
            post(opened(receiver.url))
    assert time.monotonic() - since < 1.0


@pytest.mark.parametrize("status", [400, 401, 404, 410, 413])
def test_a_refusal_is_not_retried(status: int) -> None:
    with receiving(status) as receiver, pytest.raises(Unavailable, match=f"status {status}"):
        post(opened(receiver.url))
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_takes_the_event_nowhere(status: int) -> None:
    with receiving() as other, receiving(status, Location=other.url) as receiver:
        with pytest.raises(Unavailable, match="redirect") as caught:
            post(opened(receiver.url))
        assert str(other.port) not in str(caught.value)
        assert other.requests == []


@pytest.mark.parametrize("answer", [HANG, DRIP])
def test_a_receiver_that_never_finishes_its_answer_is_given_up(answer: int) -> None:
    with receiving(*[answer] * 50) as receiver:
        done = threading.Event()

        def give_up() -> None:
            with pytest.raises(Unavailable):
                post(opened(receiver.url, 1.0))
            done.set()

        threading.Thread(target=give_up, daemon=True).start()
        # Nothing limits a receiver that drips, but the thread of a delivery is left to itself.
        assert done.wait(3.0) == (answer == HANG)


def test_no_message_or_log_line_contains_the_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with receiving(404) as receiver:
        for url in (f"http://127.0.0.1:{port}/s3cret", f"{receiver.url}/s3cret"):
            with pytest.raises(Unavailable) as caught:
                post(opened(url, 0.5))
            assert "s3cret" not in str(caught.value)
            assert caught.value.__cause__ is None
        post(opened(f"{receiver.url}/s3cret"))
    assert "s3cret" not in caplog.text


SECRET = WebhookSpec.model_validate({"url_from": {"env": "SLACK_URL"}})


@pytest.mark.parametrize(
    "text",
    ["hooks.example/s3cret", "ftp://host/s3cret", "http://", "http://host:s3cret/"],
)
def test_a_wrong_secret_url_is_not_repeated(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        webhook_url(SECRET, {"SLACK_URL": text})
    assert str(caught.value) == (
        "variable SLACK_URL holds no http or https URL with a host; correct it"
    )
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("env", [{}, {"SLACK_URL": ""}, {"SLACK_URL": " \n"}])
def test_a_missing_variable_is_named(env: dict[str, str]) -> None:
    with pytest.raises(SpecError, match="variable SLACK_URL is not set"):
        webhook_url(SECRET, env)


def test_the_line_end_of_a_secret_file_is_no_part_of_the_url() -> None:
    assert str(webhook_url(SECRET, {"SLACK_URL": "https://h/x\n"})) == "https://h/x"
