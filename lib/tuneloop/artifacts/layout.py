"""Where everything lies below the artifacts prefix."""

from __future__ import annotations

from tuneloop.storage import paths


def run_prefix(artifacts: str, run_id: str) -> str:
    """Where a run lies."""
    return paths.join(artifacts, "training_runs", run_id)


def stage_prefix(artifacts: str, run_id: str, stage: str) -> str:
    """Where a stage of a run lies."""
    return paths.join(run_prefix(artifacts, run_id), stage)


def part_name(index: int, count: int) -> str | None:
    """Names one of several processes that share a stage; None where one does it all."""
    return f"{index:05d}-of-{count:05d}" if count > 1 else None


def record_url(artifacts: str, run_id: str, stage: str, part: str | None = None) -> str:
    """Where the record of a stage, or of a part of it, lies once it has succeeded."""
    name = "record.json" if part is None else f"record-{part}.json"
    return paths.join(stage_prefix(artifacts, run_id, stage), name)


def pointer_url(artifacts: str, fingerprint: str) -> str:
    """Where the cache says which record first produced a fingerprint."""
    return paths.join(artifacts, "stages", f"{fingerprint}.json")


def run_manifest_url(artifacts: str, run_id: str) -> str:
    """Where the manifest of a run lies."""
    return paths.join(run_prefix(artifacts, run_id), "run_manifest.json")
