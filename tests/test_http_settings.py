"""Proxies and certificates of the environment: used, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tuneloop.errors import SpecError, Unavailable
from tuneloop.http_settings import make_client
from tuneloop.k8s.client.connection import Connection
from tuneloop.k8s.registry.labels import read_labels
from tuneloop.models.hub import open_repository
from tuneloop.runs.notifications.webhook import Webhook
from tuneloop.traces.client import TraceClient

REMOTE, HERE = "http://store.example:8000", "http://127.0.0.1:8000"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://proxy.example:1080"),
        ("http_proxy", "nonsense://proxy.example"),
        ("HTTP_PROXY", "http://proxy.example:port"),
        ("SSL_CERT_FILE", "/nowhere/certificates.pem"),
        ("SSL_CERT_FILE", __file__),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SpecError, match=rf"^{name}: .*unset it$"):
        TraceClient(REMOTE)


def test_other_clients_name_a_bad_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.example:1080")
    with pytest.raises(SpecError, match=r"^ALL_PROXY: .*unset it$"):
        read_labels("registry.example/tuneloop:v1")
    with pytest.raises(SpecError, match=r"^ALL_PROXY: .*unset it$"):
        open_repository("hf://org/model")
    with pytest.raises(SpecError, match=r"^ALL_PROXY: .*unset it$"):
        Webhook(httpx.URL("https://hooks.example/x"), retry_seconds=1)
    monkeypatch.setenv("NO_PROXY", "::1,fe80::/10")
    with pytest.raises(Unavailable, match=r"^127\.0\.0\.1:1 cannot be reached: .*refused"):
        read_labels("127.0.0.1:1/tuneloop:v1")


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: "https://HOST:1"}}]
users: [{name: a, user: {token: x}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
current-context: a
"""


@pytest.mark.parametrize("proxy", ["socks5://proxy.example:1080", "nonsense://proxy.example"])
def test_the_client_of_kubernetes_names_a_bad_variable(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    here, remote = tmp_path / "here", tmp_path / "remote"
    here.write_text(KUBECONFIG.replace("HOST", "127.0.0.1"))
    remote.write_text(KUBECONFIG.replace("HOST", "api.example"))
    Connection(None, str(here), retry_seconds=1).close()
    with pytest.raises(SpecError, match=r"^HTTPS_PROXY: .*unset it$"):
        Connection(None, str(remote), retry_seconds=1)


@pytest.mark.parametrize("url", [HERE, "http://localhost:1", "http://[::1]:1"])
def test_this_machine_is_asked_without_a_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.example:1080")
    TraceClient(url).close()


@pytest.mark.parametrize("no_proxy", ["::1,fe80::/10,[::1],store.example", ".example", "*"])
def test_hosts_of_no_proxy(no_proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.example:1080")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    make_client(httpx.URL(REMOTE)).close()


def test_a_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "127.0.0.1:1")
    with make_client(httpx.URL(REMOTE)) as client, pytest.raises(httpx.ConnectError) as caught:
        client.get(REMOTE)
    assert "refused" in str(caught.value)  # by the proxy's port; the name is not looked up
