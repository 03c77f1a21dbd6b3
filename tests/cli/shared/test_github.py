from __future__ import annotations

from pathlib import Path

import pytest

from tuneloop.cli.shared import github


@pytest.fixture
def summary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


@pytest.mark.usefixtures("summary")
def test_an_annotation_cannot_start_another_command(capsys: pytest.CaptureFixture[str]) -> None:
    github.annotate("error", "demo-1: train, 50 %", "first\r\n::set-output name=x::y 100 %")
    assert capsys.readouterr().out == (
        "::error title=demo-1%3A train%2C 50 %25::first%0D%0A::set-output name=x::y 100 %25\n"
    )


def test_summaries_add_up_and_stay_below_the_limit(summary: Path) -> None:
    github.append_summary("## one")
    github.append_summary("é" * github.SUMMARY_BYTES)
    text = summary.read_text("utf-8")
    assert text.startswith("## one\né")
    assert len(text.encode()) <= github.SUMMARY_BYTES + len("## one\n\n")


def test_an_output_cannot_set_another(
    summary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "output"
    monkeypatch.setenv("GITHUB_OUTPUT", str(path))
    github.set_output(run_id="demo-1", artifacts="gs://b/a=b")
    assert path.read_text() == "run_id=demo-1\nartifacts=gs://b/a=b\n"
    for text in ("a\nx=y", "a\rx=y"):
        with pytest.raises(ValueError, match="output run_id has several lines"):
            github.set_output(run_id=text)
    assert path.read_text().count("\n") == 2


def test_nothing_happens_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    summary: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    github.set_output(run_id="demo-1")
    assert not (tmp_path / "output").exists()
    assert github.run_url() is None
    github.annotate("notice", "a", "b")
    github.append_summary("x")
    assert capsys.readouterr().out == ""
    assert not summary.exists()
