"""A server on loopback that answers like the Hugging Face hub, for one repository."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.hf_file_system import HfFileSystem

COMMIT = "a" * 40
UPLOADED = "c" * 40


@dataclass
class FakeHub:
    """The state of the server."""

    repository: str = "org/tiny"
    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    """Status of every answer; another than 200 has no content."""
    error_code: str = ""
    """The hub's own name of an error, such as `GatedRepo`."""
    endpoint: str = ""
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def running_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Serve a repository, and make huggingface_hub ask this server."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    path = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + path)
    HfFileSystem.clear_instance_cache()  # instances keep the endpoint of an earlier test
    try:
        yield hub
    finally:
        HfFileSystem.clear_instance_cache()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            hub.requests.append(f"{self.command} {self.path}")
            if hub.status != 200:
                self.send(hub.status, b"", {"X-Error-Code": hub.error_code})
            else:
                self.send(*_answer(hub, self.path, body, self.headers.get("Range")))

        do_GET = do_POST = do_HEAD = answer

        def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    return Handler


def _answer(hub: FakeHub, path: str, body: bytes, asked: str | None) -> tuple[int, bytes]:
    api = f"/api/models/{hub.repository}"
    path = path.partition("?")[0]
    if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
        siblings = [{"rfilename": name} for name in hub.files]
        return 200, _json({"id": hub.repository, "sha": COMMIT, "siblings": siblings})
    if path == f"{api}/tree/{COMMIT}":
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": "b" * 40}
            for name, data in hub.files.items()
        ]
        return 200, _json(entries)
    resolved = f"/{hub.repository}/resolve/{COMMIT}/"
    if path.startswith(resolved) and path.removeprefix(resolved) in hub.files:
        data = hub.files[path.removeprefix(resolved)]
        if asked is None:
            return 200, data
        first, last = asked.removeprefix("bytes=").split("-")
        return 206, data[int(first) : int(last) + 1]
    return _upload(hub, path, body)


def _upload(hub: FakeHub, path: str, body: bytes) -> tuple[int, bytes]:
    api = f"/api/models/{hub.repository}"
    url = f"{hub.endpoint}/{hub.repository}"
    if path == "/api/repos/create":
        return 200, _json({"url": url})
    if path == "/api/validate-yaml":  # the front matter of a model card
        return 200, _json({"errors": [], "warnings": []})
    if path == f"{api}/preupload/main":
        found = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        return 200, _json({"files": found})
    if path == f"{api}/commit/main":
        for line in body.splitlines():
            row = json.loads(line)
            if row["key"] == "file":
                hub.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
        return 200, _json({"commitUrl": f"{url}/commit/{UPLOADED}", "commitOid": UPLOADED})
    return 404, b""


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
