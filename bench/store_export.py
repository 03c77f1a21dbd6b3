"""Examples per second that the store exports over HTTP in each format, and time to first byte.

The rival is a minimal export: http.server, and one line at a time with json of the standard
library.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from figure import print_figure, sized
from store import BATCH, make_bodies, post, running_store

TRACES = sized(100_000, 200)
ROUNDS = sized(3, 1)
BUILD = {"dataset_name": "bench", "dataset_version": "v1", "limit": TRACES, "seed": 1}


def _response(row: dict[str, Any]) -> str:
    steps = "".join(f"{n}. {step['content']}\n" for n, step in enumerate(row["steps"], start=1))
    return f"Reasoning:\n{steps}Answer: {row['final_answer']}"


RIVAL: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "trace": lambda row: {
        "id": row["id"],
        "prompts": row["prompt"],
        "trace_steps": [step["content"] for step in row["steps"]],
        "final_answer": row["final_answer"],
        "metadata": {**row["meta"], "created_at": row["created_at"]},
    },
    "tunix_sft": lambda row: {
        "id": row["id"],
        "prompts": f"<start_of_turn>user\n{row['prompt']}<end_of_turn>\n<start_of_turn>model\n"
        f"{_response(row)}<end_of_turn>",
        "final_answer": row["final_answer"],
        "metadata": {**row["meta"], "created_at": row["created_at"], "format": "tunix_sft"},
    },
    "training_example": lambda row: {
        "id": row["id"],
        "prompt": row["prompt"],
        "response": _response(row),
        "metadata": {**row["meta"], "created_at": row["created_at"]},
    },
}


def serve_rival(shard: Path) -> ThreadingHTTPServer:
    """Run the minimal export of a file of rows in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            render = RIVAL[self.path.strip("/")]
            with shard.open("rb") as rows:
                for line in rows:
                    self.wfile.write(json.dumps(render(json.loads(line))).encode() + b"\n")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def read(connection: http.client.HTTPConnection, path: str) -> tuple[float, float]:
    """Return the lines per second of one whole export, and the seconds to its first byte."""
    connection.close()  # the server may be closing an idle connection
    since = time.perf_counter()
    connection.request("GET", path)
    response = connection.getresponse()
    first = response.read(1)
    first_seconds = time.perf_counter() - since
    lines = first.count(b"\n")
    while block := response.read(1 << 20):
        lines += block.count(b"\n")
    assert lines == TRACES, lines
    return lines / (time.perf_counter() - since), first_seconds


def main() -> None:
    """Fill a store, build a dataset, and measure exports of store and rival alternately."""
    bodies = make_bodies(TRACES // BATCH)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Path(folder) / "artifacts"
        with running_store(f"sqlite:///{folder}/store.db", artifacts) as (ours, _):
            for body in bodies:
                post(ours, "/api/traces/batch", body)
            post(ours, "/api/datasets/build", json.dumps(BUILD).encode())
            server = serve_rival(next(artifacts.rglob("traces-*.jsonl")))
            for name in RIVAL:
                pairs, firsts = [], []
                for _ in range(ROUNDS):
                    rate, first = read(ours, f"/api/datasets/bench-v1/export.jsonl?format={name}")
                    rival = http.client.HTTPConnection("127.0.0.1", server.server_port)
                    pairs.append((rate, read(rival, f"/{name}")[0]))
                    firsts.append(first)
                print(f"{name}: first byte after {statistics.median(firsts) * 1000:.1f} ms")
                print_figure(f"store_export_{name}", "examples/s", pairs)


if __name__ == "__main__":
    main()
