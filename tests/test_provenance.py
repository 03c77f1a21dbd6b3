from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tuneloop import provenance


def checkout(folder: Path, text: str = "x = 1\n") -> Path:
    (folder / "lib").mkdir(parents=True)
    (folder / "jobs").mkdir()
    (folder / "jobs" / "__main__.py").write_text("")
    (folder / "lib" / "a.py").write_text(text)
    return folder


def test_code_identity_is_content_not_place_or_cache(tmp_path: Path) -> None:
    one, two = checkout(tmp_path / "one"), checkout(tmp_path / "two")
    (two / "lib" / "__pycache__").mkdir()
    (two / "lib" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    assert provenance.code_identity(one) == provenance.code_identity(two)
    other = checkout(tmp_path / "other", "x = 2\n")
    assert provenance.code_identity(other) != provenance.code_identity(one)


def test_outside_git_there_is_no_commit(tmp_path: Path) -> None:
    found = provenance.gather(checkout(tmp_path / "plain"))
    assert (found["git_commit"], found["git_dirty"]) == (None, None)
    assert found["libraries"]["pydantic"]


def test_git_commit_and_dirty_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkout(tmp_path / "repo")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "t")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "t@example.org")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    clean = provenance.gather(folder)
    assert len(clean["git_commit"]) == 40
    assert clean["git_dirty"] is False
    (folder / "lib" / "a.py").write_text("x = 3\n")
    provenance.gather.cache_clear()
    assert provenance.gather(folder)["git_dirty"] is True


@pytest.mark.parametrize(
    ("built_from", "expected"),
    [("a" * 40, ("a" * 40, False)), ("a" * 40 + "-dirty", ("a" * 40, True)), ("", (None, None))],
)
def test_an_image_says_what_it_was_built_from(
    built_from: str,
    expected: tuple[str | None, bool | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNELOOP_GIT_COMMIT", built_from)
    found = provenance.gather(checkout(tmp_path / "image"))
    assert (found["git_commit"], found["git_dirty"]) == expected
