"""A persistent connection to the API server for the simulated kubelet."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.cluster.controlplane import ControlPlane


class Api:
    """JSON requests over one connection; not safe for use by several threads."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._trust = ssl.create_default_context(cafile=str(control_plane.authority))
        self._token = control_plane.token
        self._address = urlsplit(control_plane.url)
        self._connection: http.client.HTTPSConnection | None = None

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        patch: str = "strategic-merge-patch",
    ) -> tuple[int, dict[str, Any]]:
        """Send a request and return status and body; reconnect once if the connection broke."""
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        kind = f"application/{patch}+json" if method == "PATCH" else "application/json"
        url = f"{path}?{urlencode(query)}" if query else path
        data = None if body is None else json.dumps(body)
        for is_last in (False, True):
            if self._connection is None:
                host, port = self._address.hostname or "", self._address.port
                self._connection = http.client.HTTPSConnection(
                    host, port, timeout=20, context=self._trust
                )
            try:
                self._connection.request(method, url, data, {**headers, "Content-Type": kind})
                answer = self._connection.getresponse()
                return answer.status, json.loads(answer.read() or b"{}")
            except (OSError, http.client.HTTPException):
                self.close()
                if is_last:
                    raise
        raise AssertionError("returned or raised")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
