from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import REPOSITORY
from tuneloop import provenance, resources
from tuneloop.import_closure import import_closure
from tuneloop.stages.table import STAGES


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of all files that code identities depend on."""
    folder = tmp_path / "checkout"
    for name in ("lib", "jobs", "manifests", "requirements"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    return folder


@pytest.fixture(autouse=True)
def fresh_caches() -> Iterator[None]:
    """Clear the caches of the process, which would otherwise persist in later tests."""
    provenance.gather.cache_clear()
    yield
    provenance.gather.cache_clear()


def identities(checkout: Path) -> dict[str, str]:
    """Return the code identity of each stage, computed by a process that runs from this copy."""
    code = (
        "from tuneloop.provenance import code_identity\n"
        "from tuneloop.stages.table import STAGES\n"
        "for row in STAGES.values(): print(row.name, code_identity(row.module, row.lock))"
    )
    env = {"PYTHONPATH": f"{checkout / 'lib'}:{checkout}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    )
    return dict(line.split() for line in done.stdout.splitlines())


def touched(checkout: Path, file: str) -> list[str]:
    """Return the stages whose code identity changes if this file is edited."""
    before = identities(checkout)
    with (checkout / file).open("a") as edited:
        edited.write("\n# edited\n")
    after = identities(checkout)
    return [name for name in before if before[name] != after[name]]


WORK = ("export", "train", "eval", "sample", "score")


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("lib/tuneloop/cli/runs.py", []),
        ("lib/tuneloop/store/app.py", []),
        ("lib/tuneloop/k8s/rendering/pod.py", []),
        ("lib/tuneloop/runs/planning/plan.py", []),
        ("manifests/k8s/job.yaml", []),
        ("lib/tuneloop/training/sft/loop.py", ["train"]),
        ("lib/tuneloop/training/export/exporter.py", ["export"]),
        ("lib/tuneloop/training/export/export_report.md.j2", ["export"]),
        ("lib/tuneloop/evaluation/report/delta_report.md.j2", ["eval"]),
        ("lib/tuneloop/evaluation/statistics/paired.py", ["eval"]),
        ("lib/tuneloop/stages/sampling/report.py", ["sample"]),
        ("lib/tuneloop/training/models/families/gemma3.py", ["train", "eval", "sample"]),
        ("lib/tuneloop/traces/client.py", ["export", "sample", "score", "import"]),
        ("lib/tuneloop/storage/files.py", [*WORK, "import"]),
        ("requirements/train.txt", ["train", "eval", "sample", "score"]),
        ("requirements/base.txt", ["export", "import"]),
    ],
)
def test_an_edit_changes_the_stages_that_can_import_it(
    file: str, stages: list[str], checkout: Path
) -> None:
    assert touched(checkout, file) == stages


def test_the_identity_is_content_not_place_or_cache(checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkout, other)
    (other / "lib" / "tuneloop" / "__pycache__").mkdir()
    (other / "lib" / "tuneloop" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (other / "README.md").write_text("docs are no code")
    assert identities(checkout) == identities(other)


@pytest.mark.parametrize("name", STAGES)
def test_the_closure_holds_all_that_a_stage_imports(name: str) -> None:
    """Import the stage's module and compare the loaded modules with the closure."""
    code = (
        f"import sys, {STAGES[name].module}, tuneloop.stages.lifecycle.contract\n"
        "print(*(m for m in sys.modules if m.split('.')[0] == 'tuneloop'))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    closure = set(import_closure(STAGES[name].module, "tuneloop.stages.lifecycle.contract"))
    assert loaded <= closure
    assert not {m for m in closure if m.startswith(("tuneloop.cli", "tuneloop.store"))}


def test_a_module_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"no module tuneloop\.none"):
        import_closure("tuneloop.none")


def test_outside_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "code_folder", lambda: tmp_path)
    found = provenance.gather()
    assert (found["git_commit"], found["git_dirty"]) == (None, None)
    assert found["libraries"]["pydantic"]


def test_git_commit_and_dirty_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "code_folder", lambda: tmp_path)
    (tmp_path / "a.py").write_text("x = 1\n")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "t")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "t@example.org")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    clean = provenance.gather()
    assert len(clean["git_commit"]) == 40
    assert clean["git_dirty"] is False
    (tmp_path / "a.py").write_text("x = 3\n")
    provenance.gather.cache_clear()
    assert provenance.gather()["git_dirty"] is True


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
    monkeypatch.setattr(resources, "code_folder", lambda: tmp_path)
    monkeypatch.setenv("TUNELOOP_GIT_COMMIT", built_from)
    found = provenance.gather()
    assert (found["git_commit"], found["git_dirty"]) == expected
