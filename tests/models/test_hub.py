from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.fake_hub import COMMIT, UPLOADED, FakeHub, running_hub
from tuneloop.errors import (
    InputMissing,
    PermissionDenied,
    SpecError,
    TuneloopError,
    Unavailable,
    UsageError,
)
from tuneloop.models.hub import open_repository, parse_hub_url, upload
from tuneloop.models.sources import is_hub_url
from tuneloop.storage import files


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub(monkeypatch) as found:
        yield found


def test_a_repository_is_read_at_one_commit(hub: FakeHub) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": b"w" * 100, "onnx/model.onnx": b"x"}
    source = open_repository("org/tiny")
    assert source.label == f"hf://org/tiny@{COMMIT}"
    assert source.names == ("config.json", "model.safetensors")
    assert files.read(source.file_url("config.json")) == b"{}"
    assert b"".join(files.iter_blocks(source.file_url("model.safetensors"))) == b"w" * 100
    assert files.size_bytes(source.file_url("model.safetensors")) == 100
    assert not any("main" in request for request in hub.requests)


def test_a_folder_is_uploaded_in_one_commit(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Model\n")
    (tmp_path / "config.json").write_text("{}")
    place = upload(tmp_path, "hf://org/tiny", "Model of run a-1")
    assert place == f"hf://org/tiny@{UPLOADED}"
    assert hub.files == {"README.md": b"# Model\n", "config.json": b"{}"}


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (404, "RepoNotFound", InputMissing, "hub has no such model or revision, or it is private"),
        (404, "RevisionNotFound", InputMissing, "hub has no such model or revision"),
        (403, "GatedRepo", PermissionDenied, "the model is gated; accept its terms"),
        (403, "", PermissionDenied, "the hub refuses access (403); log in"),
        (400, "", Unavailable, "the hub cannot be reached ("),
    ],
)
def test_refusals_are_one_sentence(
    status: int, code: str, kind: type[TuneloopError], message: str, hub: FakeHub
) -> None:
    hub.status, hub.error_code = status, code
    with pytest.raises(kind) as caught:
        open_repository("hf://org/tiny")
    assert str(caught.value).startswith("hf://org/tiny: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_network_the_remedy_is_a_copy(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="copy the model's folder to this machine or a bucket"):
        open_repository("org/tiny")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hf://org/name", ("org/name", None)),
        ("org/name@v1.0", ("org/name", "v1.0")),
        ("hf://org/name@refs/pr/3", ("org/name", "refs/pr/3")),
    ],
)
def test_urls_of_repositories(url: str, expected: tuple[str, str | None]) -> None:
    assert is_hub_url(url)
    assert parse_hub_url(url) == expected


@pytest.mark.parametrize("url", ["hf://name", "hf://org/name/sub", "hf://"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(SpecError, match=r"expected hf://ORGANIZATION/NAME"):
        parse_hub_url(url)


def test_a_local_folder_comes_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_url("org/name")
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert not is_hub_url("org/name")
    assert not is_hub_url("s3://bucket/name")
    assert not is_hub_url("./org/other")


@pytest.mark.parametrize("text", ["hf_s3cret abc", "hf_s3cret\u00e9", "hf_s3cret\nabc"])
def test_what_cannot_be_a_token_is_refused_before_a_request(
    text: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", text)
    with pytest.raises(UsageError, match=r"^environment variable HF_TOKEN: has ") as caught:
        open_repository("hf://org/tiny")
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", " \n")
    path = tmp_path / "token"
    path.write_text(text)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(path))
    with pytest.raises(UsageError) as caught:
        open_repository("hf://org/tiny")
    assert str(caught.value).startswith(f"{path}: has ")
    assert hub.requests == []
    path.write_bytes(b"\xff\x00")
    with pytest.raises(UsageError, match="is not text in UTF-8"):
        open_repository("hf://org/tiny")
    path.write_text("hf_good\n")
    hub.files = {"config.json": b"{}"}
    assert open_repository("hf://org/tiny").names == ("config.json",)
