"""List 1,000 finished runs in S3 and GCS; the rival reads the index of each run.

The stores are emulators on this machine, which answer fewer requests per second than a bucket. The
figure is that of S3.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from figure import print_figure, sized

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # the emulator does not have it
REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.history.trees import write_run  # noqa: E402 - needs the path above
from tests.objectstore import ObjectStore, used_by_this_process  # noqa: E402
from tuneloop import jsonl  # noqa: E402
from tuneloop.artifacts import layout  # noqa: E402
from tuneloop.history.listing import list_runs  # noqa: E402
from tuneloop.storage import files  # noqa: E402
from tuneloop.storage.objects import read_many  # noqa: E402

RUNS = sized(1000, 5)
ROUNDS = sized(3, 1)
LIMIT_SECONDS = 3


def fill(store: ObjectStore, root: str) -> list[str]:
    """Write the runs; all are copies of one."""
    first = "run-00000000"
    write_run(root, first)
    list_runs(root, now=datetime.now(UTC))
    ids = [first, *(f"run-{number:08d}" for number in range(1, RUNS))]
    manifest = files.read(layout.run_manifest_url(root, first))
    index = json.loads(files.read(layout.run_index_url(root, first)))
    del index["seal"]
    for run_id in ids[1:]:
        # A list does not read the manifest of a run that has an index.
        store.bucket.put(layout.run_manifest_url("runs", run_id), manifest)
        content = jsonl.dump_line({**index, "run_id": run_id})
        store.bucket.put(layout.run_index_url("runs", run_id), content)
    return ids


def measure(protocol: str) -> list[tuple[float, float]]:
    """Measure both in turn on one store."""
    pairs = []
    with used_by_this_process(protocol) as store:
        root = store.url("runs")
        urls = [layout.run_index_url(root, run_id) for run_id in fill(store, root)]
        since = time.perf_counter()
        assert len(list_runs(root, now=datetime.now(UTC))) == RUNS
        print(f"{protocol}: first list, writes the cache: {time.perf_counter() - since:.2f} s")
        for _ in range(ROUNDS):
            store.proxy.requests = 0
            since = time.perf_counter()
            found = list_runs(root, now=datetime.now(UTC))
            ours, requests = time.perf_counter() - since, store.proxy.requests
            assert {run.state for run in found} == {"finished"}
            assert len(found) == RUNS
            since = time.perf_counter()
            read_many(urls)
            pairs.append((ours, time.perf_counter() - since))
            print(
                f"{protocol}: {RUNS} runs: {ours:.3f} s of at most {LIMIT_SECONDS} s in {requests}"
                f" requests; one request per run: {pairs[-1][1]:.3f} s"
            )
    return pairs


def main() -> None:
    """Measure both stores."""
    measure("gs")
    print_figure("runs_list_stores", "s", measure("s3"))


if __name__ == "__main__":
    main()
