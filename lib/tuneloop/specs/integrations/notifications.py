"""Webhooks that are told when stages and runs end."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from tuneloop.specs.base import DnsLabel, Spec

EventName = Literal["stage_finished", "run_finished", "run_failed"]
WebhookFormat = Literal["cloudevents", "slack"]
SECRET_HOSTS = ("hooks.slack.com", "discord.com", "webhook.office.com")
"""Hosts of webhooks whose path is the credential; their subdomains count too."""


def _url_problem(url: str) -> str | None:
    """Return why a URL cannot be in a spec, without the URL itself; None if it can."""
    found = urlsplit(url)
    host = found.hostname or ""
    if found.scheme not in ("http", "https") or not host:
        return "url: expected an http or https URL with a host"
    is_secret = any(host == each or host.endswith(f".{each}") for each in SECRET_HOSTS)
    if is_secret or found.query or found.username or found.password:
        return (
            "url holds a credential (a password, a query, or the path of a chat service's webhook),"
            " expected none, because the spec is stored with the run; use url_from"
        )
    return None


class WebhookUrlFrom(Spec):
    """The places of a webhook URL that is a credential; it is never stored with the run."""

    env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*_URL$")] = "TUNELOOP_WEBHOOK_URL"
    """Environment variable with the URL, read by `run` and `wait`, and set in the in-cluster
    submitter if `secret` is given; its name ends in `_URL`."""
    secret: DnsLabel | None = None
    """Secret in the cluster's namespace with the URL, for the in-cluster submitter; null gives the
    submitter no URL, so it only warns."""
    key: str = Field(default="url", pattern=r"^[-._a-zA-Z0-9]{1,253}$")
    """Key of that Secret."""


class WebhookSpec(Spec):
    """One webhook, which `run`, `wait` or the in-cluster submitter calls with POST.

    It can neither fail the run nor hold it up.
    """

    url: str | None = None
    """URL of the webhook, if it holds no credential; set either this or `url_from`."""
    url_from: WebhookUrlFrom | None = None
    """Environment variable and Secret with the URL, if it is a credential, as Slack's are."""
    format: WebhookFormat = "cloudevents"
    """Format of the body: `cloudevents` is a CloudEvents 1.0 event as JSON, and `slack` is a text
    for Slack and services that accept its messages."""
    events: tuple[EventName, ...] = Field(
        default=("stage_finished", "run_finished", "run_failed"), min_length=1
    )
    """Events to send: a stage has its record, all stages have theirs, or a stage has failed."""
    retry_seconds: int = Field(default=30, ge=1, le=300)
    """Seconds to retry one event after a time-out, status 429 or 5xx, and seconds that the end of
    the run waits for events that are not yet delivered."""

    @model_validator(mode="after")
    def _has_one_url(self) -> Self:
        if (self.url is None) == (self.url_from is None):
            raise ValueError("expected either url or url_from")
        if self.url is not None and (problem := _url_problem(self.url)):
            raise ValueError(problem)
        return self
