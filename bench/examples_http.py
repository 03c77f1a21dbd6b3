"""Examples per second of the export, file to file; compared with an export over HTTP.

The rival is a FastAPI endpoint that selects the dataset's traces, validates each with pydantic,
renders it and answers with one string of lines. Its client writes them to a file.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from figure import print_figure, sized
from store import REPOSITORY  # noqa: F401 - puts the tests on the path

import examples
from examples import ROWS, Example, Row, make_dataset, ours
from tests.postgres import free_port
from tuneloop.datasets.read import iter_rows
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.traces.response_text import render_response

ROUNDS = sized(3, 1)


def fill(manifest: DatasetManifest, folder: str) -> str:
    """Fill a database with the dataset's traces, as a store keeps them."""
    path = f"{folder}/rival.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE traces (id TEXT PRIMARY KEY, payload TEXT)")
        rows = ((row.id, row.line().decode()) for _, row in iter_rows(manifest, folder))
        database.executemany("INSERT INTO traces VALUES (?, ?)", rows)
    return path


def serve(path: str, instruction: str, port: int) -> None:
    """Run the rival; the script starts this in a separate process."""
    app = FastAPI()

    @app.get("/export.jsonl")
    def export() -> PlainTextResponse:
        lines = []
        with contextlib.closing(sqlite3.connect(path)) as database:
            for (payload,) in database.execute("SELECT payload FROM traces"):
                row = Row.model_validate_json(payload)
                example = Example(
                    id=str(uuid.uuid4()),
                    prompt=f"{row.prompt}\n\n{instruction}",
                    response=render_response([s.content for s in row.steps], row.final_answer),
                    metadata={**(row.meta or {}), "source_trace_id": row.id},
                )
                lines.append(json.dumps(example.model_dump()) + "\n")
        return PlainTextResponse("".join(lines), media_type="application/x-ndjson")

    uvicorn.run(app, port=port, log_level="error")


@contextlib.contextmanager
def serving(path: str, instruction: str) -> Iterator[str]:
    """Start the rival and yield its address."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(path, instruction, port), daemon=True
    )
    process.start()
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/docs")
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    try:
        yield f"http://127.0.0.1:{port}/export.jsonl"
    finally:
        process.terminate()
        process.join()


def main() -> None:
    """Measure both alternately and print medians of examples per second of wall time."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_dataset(folder)
        pairs = []
        with serving(fill(manifest, folder), manifest.instruction or "") as url:
            for _ in range(ROUNDS):
                since = time.perf_counter()
                ours(manifest, folder, examples.PLAIN, None)
                mine = ROWS / (time.perf_counter() - since)
                since = time.perf_counter()
                data = httpx.get(url, timeout=600).content
                Path(folder, "rival.jsonl").write_bytes(data)
                assert data.count(b"\n") == ROWS
                pairs.append((mine, ROWS / (time.perf_counter() - since)))
        print_figure("examples_http", "examples/s", pairs)


if __name__ == "__main__":
    main()
