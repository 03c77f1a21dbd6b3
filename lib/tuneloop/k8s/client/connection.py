"""Send requests to an API server: credentials, retries, and error responses as exceptions.

All HTTP methods are retried in the same way. Repeating a POST is safe, because an object that
already exists is adopted. The retries of the Kubernetes client are disabled, because they cover
only GET.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

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
from tuneloop.http_settings import bad_proxy, proxy_for
from tuneloop.k8s.rendering.pod import CREDENTIALS_FOLDER
from tuneloop.settings.environment import read_settings

__all__ = ["Answer", "Connection", "TryAgain", "client_model", "parse_quantity"]

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = (5.0, 60.0)
"""Timeouts for connecting and between two reads; a half-open connection would hang without them."""
LONGEST_WAIT_SECONDS = 30.0
IN_CLUSTER = "in-cluster"
_AGAIN = {429, 500, 502, 503, 504}
_BROKEN = (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)


class TryAgain(Transient):
    """A transient failure of one request.

    Attributes:
        after: seconds to wait before the retry, as the server requested; None if it did not.
    """

    def __init__(self, message: str, after: float | None = None) -> None:
        """Store the message and the requested wait."""
        super().__init__(message)
        self.after = after


class Answer:
    """Response of the server: status, body and headers."""

    def __init__(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        """Store the response without decoding its body."""
        self.status, self.data, self.headers = status, data, headers

    def json(self) -> dict[str, Any]:
        """Decode the body as a JSON object."""
        value: dict[str, Any] = json.loads(self.data)
        return value

    @property
    def message(self) -> str:
        """The error message of the server, in one line."""
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
    """Connection with the credentials of one context; safe to share between threads."""

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
            UsageError: there is no configuration, or it does not contain the context.
        """
        self._wanted = (context, kubeconfig)
        self._timeout = timeout_seconds
        self.retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._load()
        self._server_time = datetime.now(UTC)  # replaced by the Date header of the first response
        self._since = time.monotonic()

    def _load(self) -> None:
        configuration, self.context = load_configuration(*self._wanted)
        # With False, unlike 0, urllib3 raises the original error instead of MaxRetryError.
        configuration.retries = False
        self.server = str(configuration.host)
        self._api = _api_client(configuration)

    def _credentials(self) -> str:
        """Return the token in use; empty if the context has none, such as with a certificate."""
        return str(self._api.configuration.api_key.get("authorization", ""))

    def _reload(self, rejected: str) -> None:
        """Load the credentials again, unless another thread has done so already."""
        with self._lock:
            if self._credentials() == rejected:
                self._api.close()
                self._load()

    def now(self) -> datetime:
        """Return the server's time: its last Date header plus the local time since then."""
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
        """Send a request; retry transient failures for `retry_seconds`.

        Args:
            method: HTTP method.
            path: path below the server's address.
            what: verb, kind and name of the object, used in error messages.
            query: query parameters.
            body: JSON value.
            content_type: content type of the body.
            expected: statuses other than 2xx that the caller handles.

        Raises:
            SpecError: the server rejects the object (400, 422), or the path does not exist (404).
            PermissionDenied: the credentials are insufficient (403) or no longer valid (401).
            QuotaExceeded: a ResourceQuota is full.
            Transient: no successful response within `retry_seconds`.
        """
        rejected: set[str] = set()
        headers = {"Accept": "application/json", "Content-Type": content_type}
        retrying = Retrying(
            retry=retry_if_exception_type(TryAgain),
            stop=stop_before_delay(self.retry_seconds),
            wait=_wait,
            reraise=True,
        )
        for attempt in retrying:
            with attempt:
                used = self._credentials()
                answer = self._send_once(method, path, what, query or {}, body, dict(headers))
                if answer.status == 401 and used not in rejected:
                    # An exec plugin or a token file may supply a newer token. Tokens can expire
                    # more than once while a request is retried.
                    rejected.add(used)
                    self._reload(used)
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
                answer.json()  # detects a truncated body while a retry is still possible
        except _BROKEN as e:
            raise TryAgain(
                f"{what}: {self.server} cannot be reached: {_reason(e)}; check the network"
            ) from e
        self._take_time(answer.headers)
        return answer

    def _take_time(self, headers: Mapping[str, str]) -> None:
        with contextlib.suppress(ValueError, TypeError):  # missing or malformed header
            self._server_time = email.utils.parsedate_to_datetime(
                headers.get("Date", "")
            ).astimezone(UTC)
            self._since = time.monotonic()


def _wait(state: RetryCallState) -> float:
    """Return the wait that the server requested, else full jitter up to LONGEST_WAIT_SECONDS."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TryAgain) and error.after is not None:
        return error.after
    return wait_random_exponential(multiplier=0.2, max=LONGEST_WAIT_SECONDS)(state)


def _refusal(answer: Answer, what: str, server: str) -> Exception:
    status, message = answer.status, answer.message
    # Server-side apply answers an unknown field with 500, although a retry cannot help.
    if status in (400, 422) or (status == 500 and "field not declared in schema" in message):
        return SpecError(f"{what}: the API server rejects the object: {message}; correct it")
    if status == 401:
        return PermissionDenied(
            f"{what}: {server} does not accept the credentials any more: {message}; log in again"
        )
    if status == 403 and "exceeded quota" in message:
        return QuotaExceeded(
            f"{what}: {message}; wait until another workload ends, or ask for a larger"
            " ResourceQuota"
        )
    if status == 403:
        return PermissionDenied(
            f"{what}: {message}; ask for a Role that allows it (`tuneloop check --server` lists all"
            " missing rights)"
        )
    if status == 404:
        return SpecError(
            f"{what}: {message}; create the namespace, or install the API that serves this kind"
        )
    if status in _AGAIN:
        text = f"{what}: {server} answers with status {status}: {message}; run again"
        return TryAgain(text, _retry_after(answer))
    return SpecError(f"{what}: {server} answers with the unexpected status {status}: {message}")


def _retry_after(answer: Answer) -> float | None:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "")))
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    """Return the cause of an error without the pool and URL that urllib3 adds to its text."""
    return f"{type(error).__name__}: {str(error).rsplit('>: ', 1)[-1]}"[:300]


def client_model(name: str) -> Any:
    """Return a pydantic model of the client, such as V1Job, in which unknown keys are errors."""
    from kubernetes.client import models

    return getattr(models, name)


def _api_client(configuration: Configuration) -> ApiClient:
    """Create the client; an API server on this machine is never asked through a proxy.

    Raises:
        SpecError: the environment has a proxy that cannot be used; the message names its variable.
    """
    url = urlsplit(str(configuration.host))
    name, proxy = proxy_for(url.scheme, url.hostname or "")
    if proxy is None:
        # Only a proxy of the environment is dropped here, not the kubeconfig's `proxy-url`.
        configuration.proxy = None if configuration.proxy in _proxies() else configuration.proxy
    try:
        with warnings.catch_warnings():  # that PySocks is missing: the error below says so
            warnings.simplefilter("ignore", urllib3.exceptions.DependencyWarning)
            return ApiClient(configuration)
    except (ImportError, ValueError, AssertionError) as e:
        if name is None:
            raise
        raise bad_proxy(name) from e


def _proxies() -> set[str | None]:
    return {None, *getproxies_environment().values()}


def load_configuration(context: str | None, kubeconfig: str | None) -> tuple[Configuration, str]:
    """Load the credentials and the address of a cluster.

    If neither argument is given, a pod uses its own credentials, and other machines use the
    default kubeconfig.

    Args:
        context: context of the kubeconfig; None means its current context.
        kubeconfig: path of the kubeconfig; None means the default one.

    Returns:
        The configuration, and the name of its context.

    Raises:
        UsageError: there is no configuration, or it does not contain the context.
    """
    configuration = Configuration()
    folder = Path(read_settings().service_account_folder or CREDENTIALS_FOLDER)
    if context is None and kubeconfig is None and (folder / "token").is_file():
        loader = InClusterConfigLoader(str(folder / "token"), str(folder / "ca.crt"))
        try:
            loader.load_and_set(configuration)
        except ConfigException as e:
            raise UsageError(
                f"{folder}: has a token, but the address of the API server is unknown: {e}; run"
                " this in a pod"
            ) from e
        return configuration, IN_CLUSTER
    try:
        contexts, current = config.list_kube_config_contexts(kubeconfig)
        names = [str(each["name"]) for each in contexts]
        if context is not None and context not in names:
            raise UsageError(
                f"--context {context}: the kubeconfig has no such context, expected one of:"
                f" {', '.join(names)}"
            )
        config.load_kube_config(kubeconfig, context, client_configuration=configuration)
    except (ConfigException, OSError, yaml.YAMLError, ValueError, RecursionError) as e:
        raise UsageError(
            f"kubeconfig {kubeconfig or os.environ.get('KUBECONFIG', '~/.kube/config')}: {e};"
            " expected the configuration of a cluster; log in to a cluster or pass --kubeconfig"
        ) from e
    return configuration, context or str(current["name"])
