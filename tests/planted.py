"""Secrets where the loop finds credentials, and a search for them in whatever it leaves."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tuneloop.store.middleware.auth import new_token


@dataclass(frozen=True)
class Planted:
    """What was planted."""

    env: dict[str, str]
    """Variables of whoever submits, of stages and of the store."""
    files: dict[str, str]
    """Name -> content, of the Secret that is mounted."""
    token_line: str
    """What lets the store token in."""
    values: dict[str, str]
    """Name -> the text that must stand nowhere."""


def plant() -> Planted:
    """Draw them anew: none of them can be in a file from before."""
    token, line = new_token("loop", "write")

    def drawn(mark: str) -> str:
        return f"{mark}{secrets.token_hex(16)}"

    values = {
        "store token": token,
        "S3 key": drawn("AKIA"),
        "S3 secret": drawn("s3/secret+"),
        "S3 session": drawn("session=="),
        "GCS key": drawn("gcs-private-key-"),
        "HF token": drawn("hf_"),
        "database password": drawn("dsn-"),
        "API token of CI": drawn("github-oidc-"),
    }
    gcs = {
        "type": "service_account",
        "project_id": "none",
        "private_key": f"-----BEGIN PRIVATE KEY-----\n{values['GCS key']}\n",
    }
    env = {
        "TUNELOOP_STORE_TOKEN": token,
        "AWS_ACCESS_KEY_ID": values["S3 key"],
        "AWS_SECRET_ACCESS_KEY": values["S3 secret"],
        "AWS_SESSION_TOKEN": values["S3 session"],
        # Nobody listens there: a client that is installed fails at once, with the keys at hand.
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "1",
        "HF_TOKEN": values["HF token"],
        "PGPASSWORD": values["database password"],
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": values["API token of CI"],
    }
    return Planted(env, {"gcs.json": json.dumps(gcs)}, line, values)


def leaks(planted: Planted, texts: Iterable[tuple[str, bytes]]) -> list[str]:
    """Where a planted value stands, as it is, in a URL, in base64 (a Secret's data) or in JSON.

    Fails where there is nothing to search: then the search itself is broken.
    """
    found, searched = [], 0
    for place, data in texts:
        searched += len(data)
        for name, value in planted.values.items():
            if any(form in data for form in _forms(value)):
                found.append(f"{name} in {place}")
    assert searched > 1000, "there was next to nothing to search"
    return found


def _forms(value: str) -> set[bytes]:
    raw = value.encode()
    # Of three alignments base64 has three texts; what they share is their middle.
    shifted = {base64.b64encode(b"x" * n + raw)[4:-4] for n in range(3)}
    return {raw, quote(value, safe="").encode(), json.dumps(value)[1:-1].encode(), *shifted}


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a folder, and its own path."""
    for path in sorted(folder.rglob("*")):
        yield f"name of {path}", str(path).encode()
        if path.is_file():
            yield str(path), path.read_bytes()
