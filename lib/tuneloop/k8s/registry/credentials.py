"""Credentials for registries, from where docker and podman keep them."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneloop.errors import UsageError
from tuneloop.k8s.registry.reference import DOCKER_HUB
from tuneloop.settings import credentials
from tuneloop.storage import paths

MAX_FILE_BYTES = 4 << 20
"""Largest file of logins that is read."""
HELPER_SECONDS = 10.0
"""Seconds that a credential helper, such as `docker-credential-gcloud`, may take."""
_DOCKER_HUB_NAMES = ("index.docker.io", "docker.io", DOCKER_HUB)
_TOKEN_USER = "<token>"
"""User name under which a helper returns an identity token instead of a password."""


@dataclass(frozen=True)
class Credentials:
    """A login; `repr` does not show its secrets."""

    user: str
    secret: str
    is_identity_token: bool = False
    """Whether the secret is an OAuth2 refresh token and not a password."""

    def __repr__(self) -> str:
        """Return the class and the user."""
        return f"Credentials(user={self.user!r})"

    @property
    def basic(self) -> str:
        """Value of an Authorization header with user and password."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def find_credentials(host: str) -> Credentials | None:
    """Return the login for a registry; None if no file has one.

    Args:
        host: host of a `Reference`.

    Raises:
        UsageError: a file, or what it has for the registry, cannot be a login; the message names
            the file and shows no content.
    """
    for path in _files():
        if (config := _read(path)) and (found := _of_config(config, host, path)):
            return found
    return None


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file; empty if it is empty, missing or not readable."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        return {}
    try:
        found = json.loads(data) if data.strip() and len(data) <= MAX_FILE_BYTES else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or len(data) > MAX_FILE_BYTES:
        raise UsageError(  # without the cause, which may hold the content
            f"{path}: is no file of logins for registries, expected a JSON object of at most"
            f" {MAX_FILE_BYTES >> 20} MiB; correct or remove it, and log in again"
        ) from None
    return found


def _files() -> list[Path]:
    """Return the files that docker, podman and buildah write when somebody logs in."""
    home, named = paths.home_folder(), os.environ.get("REGISTRY_AUTH_FILE")
    docker = os.environ.get("DOCKER_CONFIG") or (home and home / ".docker")
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    return [
        *([Path(named)] if named else []),
        *([Path(docker, "config.json")] if docker else []),
        Path(runtime, "containers", "auth.json"),
        *([home / ".config" / "containers" / "auth.json"] if home else []),
    ]


def _of_config(config: dict[str, Any], host: str, path: Path) -> Credentials | None:
    helpers, logins = _by_host(config.get("credHelpers")), _by_host(config.get("auths"))
    for name in _DOCKER_HUB_NAMES if host == DOCKER_HUB else (host,):
        key, entry = logins.get(name, (name, None))
        _, helper = helpers.get(name, (name, config.get("credsStore")))
        place = f"{path}: the login for {host}"
        found = _of_helper(str(helper), key, place) if helper else None
        found = found or _of_entry(entry, place)
        if found:
            return found
    return None


def _of_entry(entry: Any, place: str) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    if token := credentials.clean(str(entry.get("identitytoken") or ""), place):
        return Credentials(_TOKEN_USER, token, is_identity_token=True)
    text = "".join(str(entry.get("auth") or "").split())
    try:
        user, colon, secret = base64.b64decode(text, validate=True).decode().partition(":")
    except ValueError:
        user = colon = secret = ""
    if text and not (user and colon):
        raise UsageError(
            f"{place} has an auth that is not base64 of USER:PASSWORD; log in again"
        ) from None
    return _login(user, secret, place) if user else None


def _login(user: str, secret: str, place: str) -> Credentials | None:
    """Return a login without the line end of its password; None without a password.

    A password can have spaces and line ends inside: that of Google is a JSON document.
    """
    user, secret = user.strip("\r\n"), secret.strip("\r\n")
    if len(secret) > credentials.MAX_CHARACTERS or "\0" in user + secret:
        raise UsageError(
            f"{place} has a password that is too long or has NUL characters, expected text of at"
            f" most {credentials.MAX_CHARACTERS:,} characters; log in again"
        )
    return Credentials(user, secret) if user and secret else None


def _of_helper(helper: str, server: str, place: str) -> Credentials | None:
    """Ask a credential helper; docker falls back to no login too if the helper has none."""
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=server.encode(),
            capture_output=True,
            check=True,
            timeout=HELPER_SECONDS,
        )
        found = json.loads(done.stdout)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
    if user != _TOKEN_USER:
        return _login(user, secret, place)
    token = credentials.clean(secret, place)
    return Credentials(user, token, is_identity_token=True) if token else None


def _by_host(section: Any) -> dict[str, tuple[str, Any]]:
    """Return host -> (key, value); a key may be a URL such as `https://index.docker.io/v1/`."""
    entries = section.items() if isinstance(section, dict) else ()
    return {
        re.sub(r"^https?://", "", key).partition("/")[0]: (key, value) for key, value in entries
    }
