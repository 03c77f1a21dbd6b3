"""Verify a run: from the report back to the shards of its dataset. Only reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.run_index import parse_run_index
from tuneloop.artifacts.runs.run_manifest import RunManifest, read_run_manifest
from tuneloop.datasets.schema import is_key
from tuneloop.errors import DataError, InputMissing
from tuneloop.history.index import read_index
from tuneloop.history.stored import stage_names
from tuneloop.history.verification.findings import Findings, Problem
from tuneloop.history.verification.inputs import verify_answers, verify_dataset, verify_tokens
from tuneloop.history.verification.resume import verify_batches, verify_resume
from tuneloop.history.verification.stage_files import verify_stage
from tuneloop.storage import files
from tuneloop.storage.links import find_links
from tuneloop.storage.objects import list_objects


@dataclass(frozen=True)
class Verification:
    """The result for one run."""

    run_id: str
    problems: tuple[Problem, ...]
    """Sorted by path."""
    checked: int
    """Number of files that were compared with what is recorded of them."""
    size_bytes: int
    """Bytes that were read."""
    unchecked: tuple[str, ...]
    """Paths of files that nothing describes, such as those of attempts without a record."""

    def as_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return {
            "run_id": self.run_id,
            "checked": self.checked,
            "bytes": self.size_bytes,
            "problems": [{"path": each.path, "text": each.text} for each in self.problems],
            "unchecked": list(self.unchecked),
        }


def verify_run(artifacts: str, run_id: str, *, now: datetime | None = None) -> Verification:
    """Compare every file of a run with what is recorded of it.

    Args:
        artifacts: URL of the artifacts prefix.
        run_id: id of the run.
        now: the current time; the log of a running stage is not checked.

    Raises:
        InputMissing: there is no such run.
    """
    now = now or datetime.now(UTC)
    prefix = f"training_runs/{run_id}"
    findings = Findings(artifacts)
    listed = list_objects(findings.url(prefix))
    links = find_links(findings.url(prefix))
    if not listed and not links:
        raise InputMissing(
            f"{layout.run_prefix(artifacts, run_id)}: missing, expected a run; check the run id and"
            " --artifacts"
        )
    names = {f"{prefix}/{each.name}" for each in listed}
    _links(findings, [f"{prefix}/{name}" for name in links])
    manifest = _manifest(findings, run_id)
    planned = manifest.stages if manifest else {}
    records = [
        verify_stage(findings, run_id, stage, planned.get(stage, ""), names, now)
        for stage in stage_names(manifest)
    ]
    attempts = {
        name.split("/")[4] for name in names if name.startswith(f"{prefix}/train/attempts/")
    }
    verify_tokens(findings, attempts)
    for record in filter(None, records):
        verify_answers(findings, record)
    verify_resume(findings, run_id, names)
    verify_batches(findings, run_id, names)
    if manifest is not None and manifest.dataset is not None and is_key(manifest.dataset.key):
        dataset = f"datasets/{manifest.dataset.key}"
        _links(findings, [f"{dataset}/{name}" for name in find_links(findings.url(dataset))])
        verify_dataset(findings, manifest, manifest.dataset)
    _index(findings, run_id, has_records=any(records))
    _seals(findings)
    return Verification(
        run_id,
        tuple(sorted(findings.problems, key=lambda each: each.path)),
        len(findings.checked),
        findings.size_bytes,
        tuple(sorted(names - findings.checked)),
    )


def _links(findings: Findings, paths: list[str]) -> None:
    for path in paths:
        findings.add(path, f"{findings.url(path)}: is a link, expected a file; replace it")


def _manifest(findings: Findings, run_id: str) -> RunManifest | None:
    path = f"training_runs/{run_id}/run_manifest.json"
    manifest = None
    with findings.checking(path):
        findings.read_json(path)
        manifest = read_run_manifest(findings.artifacts, run_id)
        if manifest is None:
            raise FileNotFoundError(path)
        if manifest.run_id != run_id:
            raise DataError(
                f"{findings.url(path)}: belongs to run {manifest.run_id[:200]}, expected {run_id};"
                " restore it"
            )
    return manifest


def _index(findings: Findings, run_id: str, *, has_records: bool) -> None:
    """Verify the index, which lists read; it must be what the records say."""
    url = layout.run_index_url(findings.artifacts, run_id)
    path = url.removeprefix(f"{findings.artifacts.rstrip('/')}/")
    if not has_records and not files.exists(url):
        return
    with findings.checking(path):
        data = findings.read_json(path)
        found = parse_run_index(data, run_id)
        if found is None or (
            not findings.problems and found != read_index(findings.artifacts, run_id)
        ):
            raise DataError(
                f"{url}: is not what the records of the run say; `tuneloop runs list --rebuild`"
                " writes it again"
            )


def _seals(findings: Findings) -> None:
    """Report files without a seal, unless an older version has written all of them."""
    if findings.is_old:
        return
    for path in sorted(findings.unsealed):
        findings.add(
            path,
            f"{findings.url(path)}: has no seal, so a change cannot be found; it was changed, or"
            " written by an older version",
        )
