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

from tuneloop.k8s.registry.reference import DOCKER_HUB

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
    """
    for path in _files():
        try:
            config = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(config, dict) and (found := _of_config(config, host)):
            return found
    return None


def _files() -> list[Path]:
    """Return the files that docker, podman and buildah write when somebody logs in."""
    home, named = Path.home(), os.environ.get("REGISTRY_AUTH_FILE")
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    return [
        *([Path(named)] if named else []),
        Path(os.environ.get("DOCKER_CONFIG", home / ".docker"), "config.json"),
        Path(runtime, "containers", "auth.json"),
        home / ".config" / "containers" / "auth.json",
    ]


def _of_config(config: dict[str, Any], host: str) -> Credentials | None:
    helpers, logins = _by_host(config.get("credHelpers")), _by_host(config.get("auths"))
    for name in _DOCKER_HUB_NAMES if host == DOCKER_HUB else (host,):
        key, entry = logins.get(name, (name, None))
        _, helper = helpers.get(name, (name, config.get("credsStore")))
        found = (_of_helper(str(helper), key) if helper else None) or _of_entry(entry)
        if found:
            return found
    return None


def _of_entry(entry: Any) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return Credentials(_TOKEN_USER, str(token), is_identity_token=True)
    try:
        user, _, secret = base64.b64decode(str(entry.get("auth", ""))).decode().partition(":")
    except ValueError:
        return None
    return Credentials(user, secret) if user else None


def _of_helper(helper: str, server: str) -> Credentials | None:
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
    return Credentials(user, secret, is_identity_token=user == _TOKEN_USER)


def _by_host(section: Any) -> dict[str, tuple[str, Any]]:
    """Return host -> (key, value); a key may be a URL such as `https://index.docker.io/v1/`."""
    entries = section.items() if isinstance(section, dict) else ()
    return {
        re.sub(r"^https?://", "", key).partition("/")[0]: (key, value) for key, value in entries
    }
