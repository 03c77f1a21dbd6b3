"""List 1,000 finished runs from their indexes; the rival only lists the prefix.

The figure is the ratio to a recursive listing of the same prefix in the same process. Each run has
the files of a real run: manifest, records, logs, outputs, and a checkpoint.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from figure import print_figure, sized

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.history.trees import write_run  # noqa: E402 - needs the path above
from tuneloop.artifacts import layout  # noqa: E402
from tuneloop.history.listing import list_runs  # noqa: E402
from tuneloop.stages.pipelines import TRAINING_STAGES  # noqa: E402
from tuneloop.storage.objects import list_objects  # noqa: E402

RUNS = sized(1000, 5)
ROUNDS = sized(5, 1)
LIMIT_SECONDS = 3


def fill(root: str) -> None:
    """Write the runs; all are copies of one."""
    write_run(root, "run-00000000")
    first = Path(layout.run_prefix(root, "run-00000000"))
    for stage in TRAINING_STAGES:
        for name in (
            "log.txt",
            "progress.json",
            "spec.json",
            "resume/checkpoints/50/manifest.json",
        ):
            path = first / stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"{}")
    copied = {path.relative_to(first): unsealed(path) for path in first.rglob("*.*")}
    for number in range(1, RUNS):
        run_id = f"run-{number:08d}"
        for relative, data in copied.items():
            path = first.parent / run_id / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.replace(b"run-00000000", run_id.encode()))


def unsealed(path: Path) -> bytes:
    """Read a file; a manifest or record loses its seal, which would not fit the copies."""
    data = path.read_bytes()
    if path.name not in ("run_manifest.json", "record.json"):
        return data
    value = json.loads(data)
    value.pop("seal", None)
    return json.dumps(value).encode()


def main() -> None:
    """Measure both in turn."""
    pairs = []
    with tempfile.TemporaryDirectory() as root:
        fill(root)
        since = time.perf_counter()
        assert len(list_runs(root, now=datetime.now(UTC))) == RUNS
        print(f"first list, which writes the indexes: {time.perf_counter() - since:.2f} s")
        for _ in range(ROUNDS):
            since = time.perf_counter()
            found = list_runs(root, now=datetime.now(UTC))
            ours = time.perf_counter() - since
            assert {run.state for run in found} == {"finished"}
            since = time.perf_counter()
            list_objects(layout.runs_prefix(root))
            pairs.append((ours, time.perf_counter() - since))
            print(f"{RUNS} runs: {ours:.3f} s of at most {LIMIT_SECONDS} s")
    print_figure("runs_list", "s", pairs)


if __name__ == "__main__":
    main()
