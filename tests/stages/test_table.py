"""A stage that is registered from outside is planned, run, rendered and shown like the others."""

from __future__ import annotations

import configparser
import json
import os
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tests.builders import REPOSITORY, Invoke, TinyRun
from tuneloop.artifacts import layout, records
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs.planning.prepare import prepare
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.stages import StageSpec
from tuneloop.specs.target import Target
from tuneloop.stages.pipelines import PIPELINES
from tuneloop.stages.table import STAGES, StageDef
from tuneloop.storage import files

IMAGE = "registry.example/tuneloop@sha256:" + "1e3" + "0" * 61

MODULE = '''
"""Writes how many items the eval stage has scored."""

def run(spec, stage):
    items = stage.upstream("eval").counts["items"]
    stage.write_output("audit.txt", f"{spec.title}: {items} items\\n".encode())
    stage.counts["audited"] = items
'''

REGISTER = """
import sys
sys.path.insert(0, {tests!r})
from tests.stages.test_table import audit_row
from tuneloop.stages.table import STAGES
STAGES["audit"] = audit_row()
"""


class AuditStage(StageSpec):
    """Spec of the made-up stage."""

    stage: Literal["audit"] = "audit"
    title: str


def audit_row() -> StageDef:
    return StageDef(
        name="audit",
        module="audit_stage",
        spec=AuditStage,
        upstream=("eval",),
        fields=lambda inputs: {"title": inputs.spec.name},
        identity=lambda inputs: {"title": inputs.spec.name},
        copies=("audit.txt",),
        summary=lambda record: f"{record.counts['audited']} items audited",
    )


@pytest.fixture
def audited(
    tiny_run: TinyRun, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TinyRun:
    """The tiny run with the made-up stage registered, in this process and in its children."""
    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "audit_stage.py").write_text(textwrap.dedent(MODULE))
    (folder / "sitecustomize.py").write_text(REGISTER.format(tests=str(REPOSITORY)))
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(STAGES, "audit", audit_row())
    training = PIPELINES["training"]
    stages = (*training.stages, "audit")
    monkeypatch.setitem(PIPELINES, "training", replace(training, stages=stages))
    monkeypatch.delitem(sys.modules, "audit_stage", raising=False)
    return tiny_run.change(train__steps=2, execution__store_url=store)


def test_a_made_up_stage_runs_like_the_others(audited: TinyRun, tuneloop: Invoke) -> None:
    code, out, err = tuneloop("run", audited.spec_path)
    assert code == 0, err
    assert "10 items audited" in out
    plan = audited.plan()
    record = records.load(plan.artifacts, plan.run_id, "audit", plan.stages[-1].fingerprint)
    assert record.counts == {"audited": 10}
    run = layout.run_prefix(plan.artifacts, plan.run_id)
    assert files.read(f"{run}/audit.txt") == b"tiny: 10 items\n"
    code, out, _ = tuneloop("run", audited.spec_path, "--json")
    assert {"name": "audit", "state": "cached"}.items() <= json.loads(out)["stages"][-1].items()


def test_it_is_planned_and_rendered(audited: TinyRun, tuneloop: Invoke) -> None:
    _, out, _ = tuneloop("plan", audited.spec_path, "--json")
    assert json.loads(out)["stages"][-1]["name"] == "audit"
    audited.change(execution__cluster={"namespace": "n"}, execution__artifacts="gs://b/artifacts")
    audited.change(execution__datasets_url=audited.artifacts)
    spec = load_run_spec(str(audited.spec_path))
    submission = prepare(KubernetesBackend, spec, Target(image=IMAGE)).backend.submission
    config_map, job = submission.stages[-1].documents
    assert job["metadata"]["name"].startswith("tiny-audit-")
    assert json.loads(config_map["data"]["spec.json"])["title"] == "tiny"


def test_the_import_contract_names_every_stage() -> None:
    """Stages meet in stored records, never in imports: import-linter checks the table's modules."""
    contracts = configparser.ConfigParser()
    contracts.read(REPOSITORY / ".importlinter")
    named = contracts["importlinter:contract:stages"]["modules"].split()
    assert named == [row.module for row in STAGES.values()]
