"""Run specs as people write them."""

from __future__ import annotations

from tuneloop.errors import UsageError
from tuneloop.specs.run import RunSpec
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
    return load_model(RunSpec, data, url, "keys of a run spec")
