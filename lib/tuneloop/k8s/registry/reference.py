"""Image references: which registry has an image, and under which name."""

from __future__ import annotations

import re
from dataclasses import dataclass

DOCKER_HUB = "registry-1.docker.io"
_REFERENCE = re.compile(
    r"(?P<name>[^\s@]+?)(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_LOCAL = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")


@dataclass(frozen=True)
class Reference:
    """One image of a registry."""

    host: str
    """Host of the registry's API, with the port if it has one."""
    repository: str
    """Name of the image in its registry, such as `team/tuneloop`."""
    version: str
    """Digest, or the tag if there is no digest."""

    @property
    def api(self) -> str:
        """URL of the repository; only registries of this machine are called without TLS."""
        scheme = "http" if _LOCAL.fullmatch(self.host) else "https"
        return f"{scheme}://{self.host}/v2/{self.repository}"


def parse_reference(image: str) -> Reference | None:
    """Split an image reference, with the defaults of docker; None if it is not one."""
    found = _REFERENCE.fullmatch(image)
    if found is None:
        return None
    host, _, repository = found["name"].partition("/")
    if not repository or not (re.search(r"[.:]", host) or host == "localhost"):
        host, repository = "docker.io", found["name"]
    if host in ("docker.io", "index.docker.io"):
        host, repository = DOCKER_HUB, repository if "/" in repository else f"library/{repository}"
    return Reference(host, repository, found["digest"] or found["tag"] or "latest")
