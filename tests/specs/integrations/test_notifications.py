"""Webhooks in a run spec: what is refused, and that no message repeats a credential."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tuneloop.specs.integrations.notifications import WebhookSpec
from tuneloop.specs.run import ExecutionSpec
from tuneloop.validation import first_error


def problem(**webhook: Any) -> str:
    value = {"notifications": [webhook]}
    with pytest.raises(ValidationError) as caught:
        ExecutionSpec.model_validate(value)
    return first_error(caught.value, value)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.slack.com/services/s3cret",
        "https://x.webhook.office.com/s3cret",
        "https://discord.com/api/webhooks/1/s3cret",
        "https://me:s3cret@example.com/",
        "https://s3cret@example.com/",
        "https://example.com/?token=s3cret",
    ],
)
def test_a_credential_is_refused_without_repeating_it(url: str) -> None:
    found = problem(url=url)
    assert "notifications.0: url holds a credential" in found
    assert "use url_from" in found
    assert "s3cret" not in found


@pytest.mark.parametrize("url", ["ftp://h/s3cret", "h/s3cret", "https:///s3cret", "http://[::1/s3"])
def test_a_url_that_cannot_be_called_is_refused(url: str) -> None:
    assert "s3" not in problem(url=url)


@pytest.mark.parametrize(
    ("webhook", "expected"),
    [
        ({}, "expected either url or url_from"),
        ({"url": "http://h/", "url_from": {}}, "expected either url or url_from"),
        ({"url_from": {"env": "PATH"}}, "notifications.0.url_from.env is 'PATH', expected"),
        ({"url": "http://h/", "events": []}, "notifications.0.events"),
        ({"url": "http://h/", "events": ["done"]}, "notifications.0.events.0 is 'done', expected"),
        ({"url": "http://h/", "retry_seconds": 0}, "retry_seconds is 0, expected"),
        ({"url": "http://h/", "format": "teams"}, "format is 'teams', expected"),
    ],
)
def test_what_is_refused(webhook: dict[str, Any], expected: str) -> None:
    assert expected in problem(**webhook)


def test_one_variable_has_one_secret() -> None:
    one, other = {"env": "A_URL", "secret": "one"}, {"env": "A_URL", "secret": "two"}
    with pytest.raises(ValidationError, match="one environment variable has two Secrets"):
        ExecutionSpec.model_validate({"notifications": [{"url_from": one}, {"url_from": other}]})
    same = [{"url_from": one}, {"url_from": one, "format": "slack"}]
    assert len(ExecutionSpec.model_validate({"notifications": same}).notifications) == 2


def test_the_defaults() -> None:
    found = WebhookSpec.model_validate({"url": "http://10.0.0.1:8080/hook"})
    assert found.format == "cloudevents"
    assert found.events == ("stage_finished", "run_finished", "run_failed")
