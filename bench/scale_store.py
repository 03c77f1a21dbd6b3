"""Sizes, times and costs for 10^9 traces: database, datasets, export and bucket.

Rates are those of docs/how-to/store.md and docs/how-to/export.md, measured on two busy cores;
sizes come from real manifests. `--measure` fills a PostgreSQL and runs a small run, to check
ROW_BYTES and RUN_FILES. Prices are assumptions, to be replaced by your own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from figure import print_figure
from scale import POLL_SECONDS, RUNS, TRACES, Row, Tables, duration, megabytes, show

from tests.builders import letter_trace, make_tiny_run, publish_dataset
from tuneloop.datasets.build import SHARD_ROWS
from tuneloop.datasets.read import load_manifest
from tuneloop.datasets.schema import BuildRequest, DatasetShard
from tuneloop.specs.cluster import SubmitterSpec

STORED_A_SECOND = 11_200
"""Traces, one client, batches of 1,000 into PostgreSQL (docs/how-to/store.md)."""
BUILT_A_SECOND = 10_000 / 0.5
"""Traces into a dataset, PostgreSQL (docs/how-to/store.md)."""
EXPORTED_A_SECOND = 10**7 / 293 / 2
"""Examples, one process of two, eval set and duplicates checked (docs/how-to/export.md)."""
CLOSED_A_SECOND = 10**7 / 116
"""Traces whose accounts the closing process settles (docs/how-to/export.md)."""
EXAMPLE_BYTES = 1_040
"""docs/how-to/export.md: 10.4 GB for 10 million."""
ROW_BYTES = 1_540
"""Bytes of a trace of 1,440 bytes in PostgreSQL, including its indexes; see `--measure`."""
RUN_FILES = 74
"""Objects of a run of four stages in the bucket, including checkpoints; see `--measure`."""
FILES_A_LOOK = 3
"""Reads of the bucket per look at a running stage (scale_requests.py)."""

VCPU_HOUR, GIB_HOUR, READS_1000, WRITES_1000, GB_MONTH = 0.022, 0.003, 0.0004, 0.005, 0.02
"""Assumed prices in US dollars, close to list prices of 2025; replace them by your own."""


def manifest_bytes(rows: int) -> int:
    """Return the size of the manifest of a dataset with a number of rows, from real manifests."""
    with tempfile.TemporaryDirectory() as folder:
        key = publish_dataset(folder, [letter_trace(n) for n in range(3)])
        manifest = load_manifest(folder, key)
    count = -(-rows // SHARD_ROWS)
    name = "traces-00000-of-00001.jsonl"
    shard = DatasetShard(
        name=name,
        path=f"attempts/{'0' * 32}/{name}",
        rows=SHARD_ROWS,
        size_bytes=SHARD_ROWS * 1000,
        sha256="0" * 64,
    )
    one = len(manifest.model_copy(update={"shards": (shard,)}).model_dump_json(indent=1))
    return one + (count - 1) * (len(shard.model_dump_json(indent=1)) + 20)


def tables() -> Tables:
    """The figures of docs/explanation/appendix-scale.md."""
    limit = BuildRequest.model_fields["limit"].metadata[1].le
    datasets = TRACES // limit
    files = TRACES // SHARD_ROWS
    traces: list[Row] = [
        [f"{TRACES:,} traces", "", "by"],
        ["into the store, one client", duration(TRACES / STORED_A_SECOND), "rate"],
        ["in PostgreSQL", f"{TRACES * ROW_BYTES / 1e12:,.1f} TB", "measured row"],
        ["datasets, of at most " + f"{limit:,} traces", f"{datasets:,}", "schema"],
        ["to build them, one after another", duration(TRACES / BUILT_A_SECOND), "rate"],
        ["shard files", f"{files:,}", "schema"],
        ["manifest of one dataset", megabytes(manifest_bytes(limit)), "real one"],
        ["manifest, were it one dataset", megabytes(manifest_bytes(TRACES)), "real one"],
        ["examples", f"{TRACES * EXAMPLE_BYTES / 1e12:,.1f} TB", "measured example"],
        ["export by 16 processes", duration(TRACES / EXPORTED_A_SECOND / 16), "rate"],
        ["export by 1,000 processes", duration(TRACES / EXPORTED_A_SECOND / 1000), "rate"],
        ["closing, a process for each dataset", duration(limit / CLOSED_A_SECOND), "rate"],
        ["closing, were it one dataset", duration(TRACES / CLOSED_A_SECOND), "rate, at best"],
    ]
    cpus, memory = RUNS * 0.25, RUNS * 0.5
    assert (SubmitterSpec().cpu, SubmitterSpec().memory) == ("250m", "512Mi")
    reads = RUNS * FILES_A_LOOK / POLL_SECONDS
    costs: list[Row] = [
        [f"{RUNS:,} runs at once, besides their machines", "", "a day"],
        [
            "submitters",
            f"{cpus:,.0f} vCPU, {memory:,.0f} GiB",
            _dollars(24 * (cpus * VCPU_HOUR + memory * GIB_HOUR)),
        ],
        [
            "reads of the bucket",
            f"{reads:,.0f}/s",
            _dollars(reads * 86_400 / 1000 * READS_1000),
        ],
        [
            "files of hour-long runs",
            f"{24 * RUNS * RUN_FILES:,}",
            _dollars(24 * RUNS * RUN_FILES / 1000 * WRITES_1000),
        ],
        [
            f"{TRACES:,} traces as shards and examples",
            f"{2 * TRACES * EXAMPLE_BYTES / 1e12:,.1f} TB",
            _dollars(2 * TRACES * EXAMPLE_BYTES / 1e9 * GB_MONTH / 30),
        ],
    ]
    return {"scale_store traces": traces, "scale_store costs": costs}


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount < 100 else f"${amount:,.0f}"


def measured_row_bytes(batches: int = 50) -> float:
    """Fill a PostgreSQL database through the store; return bytes per trace, including indexes."""
    import psycopg
    from store import BATCH, database_urls, make_bodies, post, running_store

    with tempfile.TemporaryDirectory() as name, database_urls(Path(name)) as urls:
        url = urls["postgresql"]
        with running_store(url, Path(name) / "artifacts") as (connection, _):
            for body in make_bodies(batches):
                post(connection, "/api/traces/batch", body)
        with psycopg.connect(url) as database:
            database.autocommit = True
            database.execute("VACUUM ANALYZE")
            row = database.execute(
                "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r'"
                " AND relnamespace = 'public'::regnamespace"
            ).fetchone()
    assert row
    return float(row[0]) / (batches * BATCH)


def measured_run_files() -> int:
    """Count the files of a real run of four stages, without dataset and lock files."""
    from tuneloop.runs.local import run_plan
    from tuneloop.runs.store_app import running

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(f"sqlite:///{folder / 'store.db'}", str(folder / "artifacts")) as url:
            run = make_tiny_run(folder).change(execution__store_url=url, train__steps=1)
            run_plan(run.plan())
        artifacts = Path(run.artifacts)
        found = [p for p in artifacts.rglob("*") if p.is_file() and p.suffix != ".lock"]
        return sum("datasets" not in p.relative_to(artifacts).parts for p in found)


def main() -> None:
    """Print the tables; with `--measure`, compare ROW_BYTES and RUN_FILES with measurements."""
    show(tables())
    if "--measure" in sys.argv:
        sys.stdout.write(f"files of a run: {measured_run_files()}, RUN_FILES: {RUN_FILES}\n")
        print_figure("scale_store", "bytes", [(measured_row_bytes(), ROW_BYTES)])
    else:
        print_figure("scale_store", "bytes", [(manifest_bytes(TRACES), manifest_bytes(10**7))])


if __name__ == "__main__":
    main()
