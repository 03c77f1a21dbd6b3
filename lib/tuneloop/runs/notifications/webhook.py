"""Send requests to a webhook, with retries. No message contains its URL, which may be secret."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

import httpx

from tuneloop.errors import SpecError, Unavailable
from tuneloop.http_retries import TryAgain, is_temporary, retry_after_seconds, retrying
from tuneloop.http_settings import make_client
from tuneloop.settings import credentials
from tuneloop.specs.integrations.notifications import WebhookSpec

TIMEOUT = httpx.Timeout(10.0, connect=5.0)
"""Seconds for one request."""
MAX_PAUSE_SECONDS = 10.0


def webhook_url(spec: WebhookSpec, env: Mapping[str, str]) -> httpx.URL:
    """Return the URL of a webhook.

    Args:
        spec: the webhook.
        env: environment variables of this process.

    Raises:
        SpecError: the variable is not set, or holds no http or https URL.
        UsageError: the variable holds what cannot be a URL.
    """
    variable = spec.url_from.env if spec.url_from else ""
    text = spec.url or credentials.clean(env.get(variable), f"variable {variable}")
    if not text:
        raise SpecError(
            f"variable {variable} is not set, expected the URL of the webhook; set it, or name a"
            " Secret in url_from.secret for the in-cluster submitter"
        )
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        place = f"variable {variable}" if spec.url is None else "url"
        # Without the cause, whose text holds the URL.
        raise SpecError(f"{place} holds no http or https URL with a host; correct it")
    return url


class Webhook:
    """The receiving end of one webhook."""

    def __init__(self, url: httpx.URL, *, retry_seconds: float) -> None:
        """Create a client without sending a request.

        Args:
            url: URL of the webhook.
            retry_seconds: seconds to retry a request.

        Raises:
            SpecError: a variable with a proxy or certificates cannot be used.
        """
        self._url, self._retry_seconds = url, retry_seconds
        # These print the URL of every request, at a level that the in-cluster submitter logs.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._http = make_client(url, timeout=TIMEOUT, follow_redirects=False)

    def post(self, body: bytes, headers: Mapping[str, str], stop: threading.Event) -> None:
        """Send a request until it is accepted.

        Args:
            body: body of the request.
            headers: headers of the request.
            stop: ends retries when it is set.

        Raises:
            Unavailable: it is refused, or is not accepted in time.
        """
        send = retrying(self._retry_seconds, stop, MAX_PAUSE_SECONDS)
        try:
            send(self._post, body, headers)
        except TryAgain as e:
            raise Unavailable(f"{e}; check the webhook, or ignore this") from None

    def _post(self, body: bytes, headers: Mapping[str, str]) -> None:
        try:
            # The reply's body is not read, because it may have any length.
            with self._http.stream(
                "POST", self._url, content=body, headers=dict(headers)
            ) as response:
                status, after = response.status_code, response.headers.get("Retry-After", "")
        except httpx.TimeoutException:
            raise TryAgain("it timed out") from None
        except httpx.TransportError as e:
            raise TryAgain(f"the connection failed ({type(e).__name__})") from None
        if is_temporary(status):
            raise TryAgain(f"it answered with status {status}", retry_after_seconds(after))
        if 300 <= status < 400:
            raise Unavailable(
                f"it answered with a redirect (status {status}), which is not followed, because the"
                " new address may belong to someone else; use the final URL"
            )
        if status >= 400:
            raise Unavailable(f"it refused the event with status {status}; check its URL")
