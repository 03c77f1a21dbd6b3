"""Read runs from the artifact store for their web pages.

No file content can make a page fail. For a truncated or unrelated file, the page shows a message
next to the parts that could be read. Only files in the run's own folder and files that its records
name are read.
"""

from __future__ import annotations

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.training_metrics import Metrics, parse_metrics
from tuneloop.datasets.schema import is_key
from tuneloop.errors import DataError
from tuneloop.history.stored import StoredRun, read_run
from tuneloop.storage import files
from tuneloop.store.dependencies import Service
from tuneloop.store.web.render import problem

MAX_METRICS_BYTES = 32 << 20
"""Size limit of metrics.jsonl, which allows about 100,000 steps."""


def list_run_ids(service: Service) -> list[str]:
    """List the names of all folders that can be runs, sorted."""
    found = files.list_folders(layout.runs_prefix(service.artifacts))
    return [name for name in found if is_key(name)]


def find_run(service: Service, run_id: str, *, verify: bool = False) -> StoredRun | None:
    """Read a run with its stages; returns None if there is no such run.

    Args:
        service: the state of the store, with the artifacts prefix.
        run_id: id of the run, which is the name of its folder.
        verify: check every file that a record names, which takes one request per file.
    """
    if not is_key(run_id):
        return None
    return read_run(
        service.artifacts,
        run_id,
        now=service.clock(),
        verify=verify,
        describe=lambda error: problem(error, service),
    )


def read_output(record: Record, name: str, artifacts: str, limit_bytes: int) -> bytes:
    """Read and verify an output of a stage.

    Raises:
        DataError: the file is missing, was changed, or is too large for a page.
    """
    file = record.output(name)
    if file.size_bytes > limit_bytes:
        raise DataError(
            f"{file.path}: the file has {file.size_bytes} bytes, expected at most {limit_bytes} for"
            " a page; download it instead"
        )
    return records.read_output(file, artifacts)


def load_metrics(train: Record, artifacts: str) -> Metrics:
    """Read the metrics of a finished training.

    Raises:
        DataError: metrics.jsonl is missing or invalid.
    """
    return parse_metrics(read_output(train, "metrics.jsonl", artifacts, MAX_METRICS_BYTES))
