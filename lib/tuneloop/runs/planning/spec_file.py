"""Read run specs from YAML files."""

from __future__ import annotations

import re

from tuneloop.errors import SpecError, UsageError
from tuneloop.specs import sampling, scoring
from tuneloop.specs.renamed_keys import RENAMED_KEYS, RENAMED_KINDS
from tuneloop.specs.run import RunSpec
from tuneloop.specs.sampling import AnyRunSpec, SampleRunSpec
from tuneloop.specs.scoring import ScoreRunSpec
from tuneloop.stages.table import STAGES, names_in
from tuneloop.storage import files
from tuneloop.yaml_in import load_model, parse_mapping, validate

VERBS = {"sweep": "`plan`, `run` or `submit`", "rounds": "`plan`, `run` or `trigger`"}
"""Key of a spec that describes several runs -> verbs that can run it."""

KINDS: dict[str, type[SampleRunSpec] | type[ScoreRunSpec]] = {
    sampling.KEY: SampleRunSpec,
    scoring.KEY: ScoreRunSpec,
}
"""Key at the top of a spec file -> class of the spec; all other files are training runs."""


def load_run_spec(url: str) -> RunSpec:
    """Read and validate a run spec.

    Raises:
        UsageError: there is no such file.
        SpecError: it is not YAML, a key is unknown, old, given twice or missing, or a value is
            wrong.
    """
    data = _read(url)
    for key, verbs in VERBS.items():
        if re.search(rb"^%s\s*:" % key.encode(), data, re.MULTILINE):
            raise UsageError(
                f"{url}: has the key {key}, expected one run; use {verbs} for this spec"
            )
    for key in KINDS:
        if re.search(rb"^%s\s*:" % key.encode(), data, re.MULTILINE):
            raise UsageError(
                f"{url}: has the key {key}, expected a training run; name another spec"
            )
    spec = load_model(RunSpec, data, url, "keys of a run spec", RENAMED_KEYS, RENAMED_KINDS)
    check_shard_counts(spec, url)
    return spec


def load_any_spec(url: str) -> AnyRunSpec:
    """Read and validate the spec of a run of any kind, which its top keys tell.

    Raises:
        UsageError: there is no such file.
        SpecError: as in `load_run_spec`.
    """
    data = _read(url)
    if any(key.encode() in data for key in KINDS):
        value, root = parse_mapping(data, url, "keys of a run spec")
        for key, kind in KINDS.items():
            if key in value:
                spec: AnyRunSpec = validate(kind, value, root, url)
                check_shard_counts(spec, url)
                return spec
    return load_run_spec(url)


def _read(url: str) -> bytes:
    try:
        return files.read(url)
    except FileNotFoundError as e:
        raise UsageError(f"{url}: no such file, expected a run spec; check the path") from e


def check_shard_counts(spec: AnyRunSpec, url: str) -> None:
    """Refuse shards of a stage that cannot share its work."""
    if spec.execution.cluster is None:
        return
    shared = names_in("shared")
    for name in STAGES:
        shard_count = spec.execution.cluster.placement(name).shard_count
        if shard_count > 1 and name not in shared:
            raise SpecError(
                f"{url}: execution.cluster.{name}.shard_count is {shard_count}, expected 1, because"
                f" only {', '.join(shared)} can share their work; remove the key"
            )
