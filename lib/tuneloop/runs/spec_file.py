"""Read run specs from YAML files."""

from __future__ import annotations

import re

from tuneloop.errors import SpecError, UsageError
from tuneloop.specs.renamed_keys import RENAMED_KEYS, RENAMED_KINDS
from tuneloop.specs.run import RunSpec
from tuneloop.stages.table import STAGES, names_in
from tuneloop.storage import files
from tuneloop.yaml_in import load_model


def load_run_spec(url: str) -> RunSpec:
    """Read and validate a run spec.

    Raises:
        UsageError: there is no such file.
        SpecError: it is not YAML, a key is unknown, old, given twice or missing, or a value is
            wrong.
    """
    try:
        data = files.read(url)
    except FileNotFoundError as e:
        raise UsageError(f"{url}: no such file, expected a run spec; check the path") from e
    if re.search(rb"^sweep\s*:", data, re.MULTILINE):
        raise UsageError(
            f"{url}: has the key sweep, expected one run; use `plan`, `run` or `submit` for a sweep"
        )
    spec = load_model(RunSpec, data, url, "keys of a run spec", RENAMED_KEYS, RENAMED_KINDS)
    check_shard_counts(spec, url)
    return spec


def check_shard_counts(spec: RunSpec, url: str) -> None:
    """Refuse shards of a stage that cannot share its work."""
    if spec.execution.cluster is None:
        return
    shared = names_in("shared")
    for name in STAGES:
        shard_count = spec.execution.cluster.placement(name).shard_count
        if shard_count > 1 and name not in shared:
            raise SpecError(
                f"{url}: execution.cluster.{name}.shard_count is {shard_count}, expected 1, because"
                f" only {' and '.join(shared)} can share their work; remove the key"
            )
