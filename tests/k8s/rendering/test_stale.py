"""Manifests that a rendered folder holds already."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.builders import Invoke, TinyRun
from tests.k8s.twin import IMAGE
from tuneloop.errors import UsageError
from tuneloop.k8s.rendering.stale import refuse_stale_files

JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "x", "labels": {"tuneloop.dev/run": "demo-12345e67"}},
}
POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "mine", "labels": {"app": "mine"}},
    "spec": {"podSelector": {"matchLabels": {"tuneloop.dev/run": "demo-12345e67"}}},
}


@pytest.mark.parametrize(
    ("name", "text", "is_stale"),
    [
        ("01-export.yaml", yaml.safe_dump(JOB), True),
        ("a b ü🟡.yml", yaml.safe_dump_all([POLICY, JOB]), True),
        ("list.json", '{"kind": "List", "items": [{"metadata": {"labels": {', False),
        ("list.yaml", yaml.safe_dump({"kind": "List", "items": [POLICY, JOB]}), True),
        ("mine.yaml", yaml.safe_dump(POLICY), False),
        ("broken.yaml", "a: [", False),
        ("binary.yaml", "\x00\x01", False),
        ("empty.yaml", "", False),
        ("odd.yaml", "- 1\n---\nmetadata: 3\n---\nmetadata: {labels: [x]}\n", False),
        ("notes.txt", yaml.safe_dump(JOB), False),
        ("stages/01-export.yaml", yaml.safe_dump(JOB), False),
        ("submit.yaml", yaml.safe_dump(JOB), False),
    ],
)
def test_what_is_stale(name: str, text: str, is_stale: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if not is_stale:
        refuse_stale_files(tmp_path, {"submit.yaml"})
        return
    with pytest.raises(UsageError) as caught:
        refuse_stale_files(tmp_path, {"submit.yaml"})
    assert f"holds {name} of another run" in str(caught.value)


def test_a_folder_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    refuse_stale_files(tmp_path / "new", ())


def test_rendering_again_is_fine_and_stage_files_of_an_old_version_are_refused(
    tiny_run: TinyRun, tuneloop: Invoke, tmp_path: Path
) -> None:
    tiny_run.change(execution__cluster={"namespace": "n", "image": IMAGE})
    folder = tmp_path / "out"
    render = ("render", tiny_run.spec_path, "-o", folder)
    assert tuneloop(*render)[0] == tuneloop(*render)[0] == 0
    before = (folder / "submit.yaml").read_bytes()
    old = folder / "02-train.yaml"
    old.write_bytes((folder / "stages" / "02-train.yaml").read_bytes())
    tiny_run.change(train__steps=3)
    code, _, err = tuneloop(*render)
    assert (code, "02-train.yaml of another run or version" in err) == (2, True)
    assert (folder / "submit.yaml").read_bytes() == before, "nothing is written"
    old.unlink()
    assert tuneloop(*render)[0] == 0
