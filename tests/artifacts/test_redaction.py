"""Credentials in log lines."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import pytest

from tuneloop.artifacts.stage_logs.redaction import RedactingFormatter, Redactor

ENV = {
    "AWS_SECRET_ACCESS_KEY": "s3/secret+abc",
    "AWS_ACCESS_KEY_ID": "AKIA12345678",
    "MLFLOW_TRACKING_TOKEN": "tok3n-ünï🟡-x",
    "GCS_PRIVATE_KEY": "-----BEGIN-----\nMIIEvQIBADANBg\n-----END-----\n",
    "TUNELOOP_WEBHOOK_URL": "https://hooks.example/services/T0/B0/x",
    "TUNELOOP_DATABASE_URL": "postgresql://u:pa55word@db/x",
    "STORE_URL": "http://store:8000/",
    "SHORT_TOKEN": "true",
    "EMPTY_TOKEN": "",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/token-of-the-pod",
    "MONKEY": "a banana for lunch",
    "HOME": "/home/tuneloop",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("key s3/secret+abc of AKIA12345678.", "key [redacted] of [redacted]."),
        ("?x=s3%2Fsecret%2Babc", "?x=[redacted]"),
        ("token tok3n-ünï🟡-x", "token [redacted]"),
        ("line MIIEvQIBADANBg of a key", "line [redacted] of a key"),
        ("POST https://hooks.example/services/T0/B0/x: 404", "POST [redacted]: 404"),
        ("at postgresql://u:pa55word@db/x", "at [redacted]"),
        ("at postgresql://u:other@db/x", "at postgresql://u:[redacted]@db/x"),
        ("Authorization: Bearer abc", "Authorization: Bearer [redacted]"),
        (
            "{'authorization': 'Basic dTpw', 'a': 1}",
            "{'authorization': 'Basic [redacted]', 'a': 1}",
        ),
        ("bearer abcdefgh12", "bearer [redacted]"),
        (
            "GET https://b/o?X-Amz-Signature=ab12&X-Amz-Security-Token=t%3D&list=1",
            "GET https://b/o?X-Amz-Signature=[redacted]&X-Amz-Security-Token=[redacted]&list=1",
        ),
        ("?access_token=abc#x", "?access_token=[redacted]#x"),
        # Kept: words, places, and numbers of tokens.
        ("true http://store:8000/ /var/run/secrets/token-of-the-pod", None),
        ("a banana for lunch in /home/tuneloop", None),
        ("tokens=1024, 12 tokens per second, key=value, gs://bucket/a@b", None),
        ("bearer of bad news; s3://bucket/key?x", None),
        ("", None),
    ],
)
def test_what_is_redacted(text: str, expected: str | None) -> None:
    assert Redactor(ENV)(text) == (text if expected is None else expected)


def test_a_file_that_a_variable_names_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "key.json").touch()
    name = str(tmp_path / "key.json")
    redact = Redactor({"GOOGLE_APPLICATION_CREDENTIALS": name})
    assert redact(f"reading {name}") == f"reading {name}"


def test_tracebacks_are_redacted() -> None:
    formatter = RedactingFormatter("%(levelname)s %(message)s", ENV)
    try:
        raise ValueError("s3/secret+abc is wrong")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "failed", (), sys.exc_info())
    assert "s3/secret+abc" not in formatter.format(record)
    assert "ValueError: [redacted] is wrong" in formatter.format(record)


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "://" * 300_000, "?token" * 150_000, "bearer " * 150_000]
)
def test_huge_lines_take_linear_time(text: str) -> None:
    started = time.monotonic()
    Redactor(ENV)(text)
    assert time.monotonic() - started < 5
