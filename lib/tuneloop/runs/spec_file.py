"""Run specs as people write them."""

from __future__ import annotations

from tuneloop.errors import SpecError, UsageError
from tuneloop.specs.run import RunSpec
from tuneloop.stages.table import STAGES, names_in
from tuneloop.storage import files
from tuneloop.yaml_in import load_model


def load_run_spec(url: str) -> RunSpec:
    """Read and validate a run spec.

    Raises:
        UsageError: there is no such file.
        SpecError: it is not YAML, a key is unknown, given twice or missing, or a value is wrong.
    """
    try:
        data = files.read(url)
    except FileNotFoundError as e:
        raise UsageError(f"{url}: no such file, expected a run spec; check the path") from e
    spec = load_model(RunSpec, data, url, "keys of a run spec")
    _check_shards(spec, url)
    return spec


def _check_shards(spec: RunSpec, url: str) -> None:
    if spec.execution.cluster is None:
        return
    shared = names_in("shared")
    for name in STAGES:
        shards = spec.execution.cluster.placement(name).shards
        if shards > 1 and name not in shared:
            raise SpecError(
                f"{url}: execution.cluster.{name}.shards is {shards}, expected 1, because only"
                f" {' and '.join(shared)} share work; remove the key"
            )
