"""Credentials of variables and files: cleaned, absent, or refused without being shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneloop.errors import UsageError
from tuneloop.settings import credentials
from tuneloop.traces.client import TraceClient

WRONG = {
    "a b": "a space",
    "a\tb": "a space",
    "first\nsecond": "several lines",
    "\u00e9t\u00e9": "a character beyond ASCII",
    "token\U0001f600": "a character beyond ASCII",
    "a\0b": "a control character",
    "\x1b[31mred": "a control character",
    "\ufefftoken": "a character beyond ASCII",
    "\u200btoken": "a character beyond ASCII",
    "x" * 16_385: "16,385 characters",
}


@pytest.mark.parametrize("text", ["tl_abc", "tl_abc\n", " tl_abc\r\n"])
def test_a_token_loses_its_line_end(text: str, tmp_path: Path) -> None:
    assert credentials.clean(text, "x") == "tl_abc"
    (tmp_path / "token").write_bytes(text.encode())
    assert credentials.read(tmp_path / "token") == "tl_abc"


@pytest.mark.parametrize("text", ["", "\n", " \r\n"])
def test_an_empty_token_is_none(text: str, tmp_path: Path) -> None:
    assert credentials.clean(text, "x") is None
    assert credentials.read(tmp_path / "none") is None
    (tmp_path / "token").write_text(text)
    assert credentials.read(tmp_path / "token") is None


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_a_token_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        credentials.read(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: has {WRONG[text]}, expected one token")
    assert text not in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00s\x00e", b"\x1f\x8b\x08" * 50_000, b"x" * (5 << 20)]
)
def test_a_file_that_is_no_token_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(UsageError, match=r"model\.safetensors: .*expected one token") as caught:
        credentials.read(tmp_path / "model.safetensors")
    assert caught.value.__cause__ is None
    with pytest.raises(UsageError, match="cannot be read"):
        credentials.read(tmp_path)


@pytest.mark.parametrize("text", [text for text in WRONG if "\0" not in text])
def test_the_token_of_the_store_is_refused_at_once(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELOOP_STORE_TOKEN", text)
    with pytest.raises(UsageError, match=r"^TUNELOOP_STORE_TOKEN: has ") as caught:
        TraceClient("http://127.0.0.1:8000")
    assert text not in str(caught.value)
    with pytest.raises(UsageError, match=r"^token: has "):
        TraceClient("http://127.0.0.1:8000", token=text)
