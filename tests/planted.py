"""Plant secrets where the loop finds credentials, and search for them in everything it writes."""

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
    """The planted secrets."""

    env: dict[str, str]
    """Environment variables of the submitter, the stages and the store."""
    files: dict[str, str]
    """Contents by name of the Kubernetes Secret that is mounted."""
    token_line: str
    """Line of the token file that accepts the store token."""
    values: dict[str, str]
    """Texts by name that must not appear anywhere."""


def plant() -> Planted:
    """Draw new secrets, so that none of them can be in an older file."""
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
        "path of a webhook": drawn("hook-"),
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
        # Nothing listens at this address, so an installed client fails at once, with the keys set.
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "1",
        "HF_TOKEN": values["HF token"],
        "PGPASSWORD": values["database password"],
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": values["API token of CI"],
    }
    return Planted(env, {"gcs.json": json.dumps(gcs)}, line, values)


def leaks(planted: Planted, texts: Iterable[tuple[str, bytes]]) -> list[str]:
    """List the places of planted values, in plain, URL, base64 (a Secret's data) or JSON form.

    Fails if there is nothing to search, because the test itself is then broken.
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
    # Base64 has three alignments with different texts, which share their middle.
    shifted = {base64.b64encode(b"x" * n + raw)[4:-4] for n in range(3)}
    return {raw, quote(value, safe="").encode(), json.dumps(value)[1:-1].encode(), *shifted}


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file of a folder, and its path."""
    for path in sorted(folder.rglob("*")):
        yield f"name of {path}", str(path).encode()
        if path.is_file():
            yield str(path), path.read_bytes()
