"""Settings of HTTP clients from the environment: proxies and certificates."""

from __future__ import annotations

import ipaddress
import os
import ssl
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies_environment, proxy_bypass

from tuneloop.errors import SpecError

if TYPE_CHECKING:  # the client of Kubernetes needs no httpx
    import httpx

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def make_client(url: httpx.URL, **settings: Any) -> httpx.Client:
    """Return a client for the host of a URL, with the proxy and certificates of the environment.

    This machine itself is never asked through a proxy.

    Args:
        url: address whose host decides which proxy is used.
        settings: further arguments of `httpx.Client`.

    Raises:
        SpecError: a variable of the environment cannot be used; the message names it.
    """
    import httpx

    verify = _certificates()
    name, proxy = proxy_for(url.scheme, url.host)
    try:
        return httpx.Client(proxy=proxy, trust_env=False, verify=verify, **settings)
    except (ImportError, ValueError, httpx.InvalidURL) as e:
        if name is None:
            raise
        raise bad_proxy(name) from e


def bad_proxy(name: str) -> SpecError:
    """Return the error of a variable that holds a proxy which a client refuses."""
    return SpecError(
        f"{name}: found a proxy that cannot be used, expected http://HOST:PORT or"
        " https://HOST:PORT; correct the variable, or unset it"
    )


def _certificates() -> ssl.SSLContext | bool:
    given = {name: os.environ[name] for name in _CERTIFICATES if os.environ.get(name)}
    if not given:
        return True
    for name, path in given.items():
        if not os.path.exists(path):
            raise SpecError(
                f"{name}: there is no {path!r}, expected certificates; correct the variable, or"
                " unset it"
            )
    try:
        return ssl.create_default_context(
            cafile=given.get("SSL_CERT_FILE"), capath=given.get("SSL_CERT_DIR")
        )
    except (OSError, ValueError) as e:
        raise SpecError(
            f"{' and '.join(given)}: cannot be read as certificates ({e}), expected PEM; correct"
            " the variable, or unset it"
        ) from e


def _is_direct(host: str) -> bool:
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = host == "localhost" or host.endswith(".localhost")
    return is_here or bool(proxy_bypass(host))


def proxy_for(scheme: str, host: str) -> tuple[str | None, str | None]:
    """Return the variable with the proxy for a host, and the proxy; None for both without one."""
    if _is_direct(host):
        return None, None
    found = getproxies_environment()
    for key in (scheme, "all"):
        if proxy := found.get(key):
            names = (f"{key}_proxy", f"{key}_proxy".upper())
            name = next((each for each in names if os.environ.get(each) == proxy), names[1])
            return name, proxy if "://" in proxy else f"http://{proxy}"
    return None, None
