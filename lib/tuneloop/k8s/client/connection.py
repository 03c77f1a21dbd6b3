"""One request to an API server: credentials, retries, and refusals as sentences.

The one importer of the Kubernetes client. One rule: every verb is tried again alike. A repeated
POST is safe, because an object that is there already is adopted; the client's own retries know GET
alone and are off.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader
from kubernetes.utils.quantity import parse_quantity
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay
from tenacity.wait import wait_random_exponential

from tuneloop.errors import PermissionDenied, QuotaExceeded, SpecError, Transient, UsageError
from tuneloop.k8s.rendering.pod import CREDENTIALS_ENV, CREDENTIALS_FOLDER

__all__ = ["Answer", "Connection", "TryAgain", "client_model", "parse_quantity"]

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = (5.0, 60.0)
"""To connect, and between two reads: a half-open connection would hang for ever without."""
LONGEST_WAIT_SECONDS = 30.0
IN_CLUSTER = "in-cluster"
_AGAIN = {429, 500, 502, 503, 504}
_BROKEN = (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)


class TryAgain(Transient):
    """Something passing; `after` is what the server asked to wait, in seconds."""

    def __init__(self, message: str, after: float | None = None) -> None:
        """Keep the wait beside the sentence."""
        super().__init__(message)
        self.after = after


class Answer:
    """What the server said: status, body, headers."""

    def __init__(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        """Nothing is decoded yet."""
        self.status, self.data, self.headers = status, data, headers

    def json(self) -> dict[str, Any]:
        """The body as an object."""
        value: dict[str, Any] = json.loads(self.data)
        return value

    @property
    def message(self) -> str:
        """The server's own words, in one line."""
        try:
            text = str(self.json()["message"])
        except (ValueError, KeyError, TypeError):
            text = self.data[:300].decode("utf-8", "replace")
        return " ".join(text.split())[:1000]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Texts of the Warning headers (RFC 9111: `299 - "text"`)."""
        found = urllib3.HTTPHeaderDict(self.headers).getlist("Warning")
        return tuple(w.split('"', 1)[-1].rsplit('"', 1)[0].replace('\\"', '"') for w in found)


class Connection:
    """Sends requests with the credentials of one context; safe to share between threads."""

    def __init__(
        self,
        context: str | None,
        kubeconfig: str | None,
        *,
        retry_seconds: float,
        timeout_seconds: tuple[float, float] = TIMEOUT_SECONDS,
    ) -> None:
        """Load the credentials; nothing is sent yet.

        Raises:
            UsageError: there is no configuration, or no such context in it.
        """
        self._wanted = (context, kubeconfig)
        self._timeout = timeout_seconds
        self.retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._load()
        self._server_time = datetime.now(UTC)  # until the first answer says better
        self._since = time.monotonic()

    def _load(self) -> None:
        configuration, self.context = load_configuration(*self._wanted)
        # False, not 0: the first error comes through as it is, to be judged here.
        configuration.retries = False
        self.server = str(configuration.host)
        self._api = ApiClient(configuration)

    def now(self) -> datetime:
        """The server's clock: its last Date header and the time since then here."""
        return self._server_time + timedelta(seconds=time.monotonic() - self._since)

    def close(self) -> None:
        """Close idle connections."""
        self._api.close()

    def send(
        self,
        method: str,
        path: str,
        what: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        expected: tuple[int, ...] = (),
    ) -> Answer:
        """Send a request until it is answered, or until the time for trying is over.

        Args:
            method: of HTTP.
            path: below the server's address.
            what: verb, kind and name, for errors.
            query: parameters.
            body: JSON value.
            content_type: of the body.
            expected: statuses besides 2xx that the caller knows what to do with.

        Raises:
            SpecError: the server refuses the object itself (400, 422), or knows no such place.
            PermissionDenied: the credentials are not enough (403), or not valid any more (401).
            QuotaExceeded: a ResourceQuota is full.
            Transient: no good answer within `retry_seconds`.
        """
        rejected = False
        headers = {"Accept": "application/json", "Content-Type": content_type}
        retrying = Retrying(
            retry=retry_if_exception_type(TryAgain),
            stop=stop_before_delay(self.retry_seconds),
            wait=_wait,
            reraise=True,
        )
        for attempt in retrying:
            with attempt:
                answer = self._send_once(method, path, what, query or {}, body, dict(headers))
                if answer.status == 401 and not rejected:
                    rejected = True
                    with self._lock:
                        self._api.close()
                        self._load()  # an exec plugin or a token file may have a newer one
                    raise TryAgain(f"{what}: {answer.message}", after=0.0)
                if not 200 <= answer.status < 300 and answer.status not in expected:
                    raise _refusal(answer, what, self.server)
                return answer
        raise AssertionError("tenacity returns or raises")

    def _send_once(
        self,
        method: str,
        path: str,
        what: str,
        query: Mapping[str, str],
        body: Any,
        headers: dict[str, str],
    ) -> Answer:
        try:
            request = self._api.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = self._api.call_api(*request, _request_timeout=self._timeout)
            answer = Answer(response.status, response.read(), response.headers)
            if answer.status < 300 and "json" in str(response.headers.get("Content-Type")):
                answer.json()  # a body that was cut off is noticed now
        except _BROKEN as e:
            raise TryAgain(f"{what}: {self.server} cannot be reached: {_reason(e)}") from e
        self._take_time(answer.headers)
        return answer

    def _take_time(self, headers: Mapping[str, str]) -> None:
        with contextlib.suppress(ValueError, TypeError):  # none, or one that nobody can read
            self._server_time = email.utils.parsedate_to_datetime(
                headers.get("Date", "")
            ).astimezone(UTC)
            self._since = time.monotonic()


def _wait(state: RetryCallState) -> float:
    """What the server asked for, else full jitter that grows to LONGEST_WAIT_SECONDS."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TryAgain) and error.after is not None:
        return error.after
    return wait_random_exponential(multiplier=0.2, max=LONGEST_WAIT_SECONDS)(state)


def _refusal(answer: Answer, what: str, server: str) -> Exception:
    status, message = answer.status, answer.message
    # Server-side apply of an unknown field is answered by 500 and stays wrong.
    if status in (400, 422) or (status == 500 and "field not declared in schema" in message):
        return SpecError(f"{what}: the API server refuses the object: {message}; mend it")
    if status == 401:
        return PermissionDenied(
            f"{what}: {server} does not take the credentials any more: {message}; log in again"
        )
    if status == 403 and "exceeded quota" in message:
        return QuotaExceeded(
            f"{what}: {message}; wait until something ends, or ask for a larger ResourceQuota"
        )
    if status == 403:
        return PermissionDenied(
            f"{what}: {message}; ask for a Role that allows it, `tuneloop check --server` lists all"
        )
    if status == 404:
        return SpecError(
            f"{what}: {message}; create the namespace, or install what serves this kind"
        )
    if status in _AGAIN:
        return TryAgain(f"{what}: {server} answers {status}: {message}", _retry_after(answer))
    return SpecError(f"{what}: {server} answers {status}: {message}; this is not expected")


def _retry_after(answer: Answer) -> float | None:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "")))
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    """The cause without the pool and the URL that urllib3 writes around it."""
    return f"{type(error).__name__}: {str(error).rsplit('>: ', 1)[-1]}"[:300]


def client_model(name: str) -> Any:
    """A pydantic model of the client, such as V1Job; unknown keys are errors."""
    from kubernetes.client import models

    return getattr(models, name)


def load_configuration(context: str | None, kubeconfig: str | None) -> tuple[Configuration, str]:
    """Credentials and address: what is named, else the pod's own, else the default kubeconfig.

    Returns:
        The configuration, and the name of its context.

    Raises:
        UsageError: there is none, or no such context.
    """
    configuration = Configuration()
    folder = Path(os.environ.get(CREDENTIALS_ENV, CREDENTIALS_FOLDER))
    if context is None and kubeconfig is None and (folder / "token").is_file():
        loader = InClusterConfigLoader(str(folder / "token"), str(folder / "ca.crt"))
        try:
            loader.load_and_set(configuration)
        except ConfigException as e:
            raise UsageError(f"{folder}: no address of the API server: {e}; run in a pod") from e
        return configuration, IN_CLUSTER
    try:
        contexts, current = config.list_kube_config_contexts(kubeconfig)
        names = [str(each["name"]) for each in contexts]
        if context is not None and context not in names:
            raise UsageError(
                f"--context {context}: not in the kubeconfig, expected one of {', '.join(names)}"
            )
        config.load_kube_config(kubeconfig, context, client_configuration=configuration)
    except (ConfigException, OSError, yaml.YAMLError) as e:
        raise UsageError(
            f"kubeconfig {kubeconfig or os.environ.get('KUBECONFIG', '~/.kube/config')}: {e};"
            " expected a configuration of a cluster, log in to one or pass --kubeconfig"
        ) from e
    return configuration, context or str(current["name"])
