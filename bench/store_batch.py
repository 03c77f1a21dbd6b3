"""Traces per second that one client posts to the store over HTTP, in batches of 1000.

The rival is a minimal store: http.server, json of the standard library, and one INSERT per row.
"""

from __future__ import annotations

import http.client
import json
import sqlite3
import tempfile
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
from figure import print_figure, sized
from store import BATCH, database_urls, make_bodies, post, running_store

PATH = "/api/traces/batch"
ROUNDS = sized(30, 3)


def serve_rival(kind: str, database: str) -> ThreadingHTTPServer:
    """Run the minimal store in a thread."""
    if kind == "sqlite":
        file = database.removeprefix("sqlite:///") + ".rival"
        connection: Any = sqlite3.connect(file, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        text, mark = "TEXT", "?"
    else:
        connection = psycopg.connect(database)
        text, mark = "JSONB", "%s"
    connection.execute(f"CREATE TABLE rival (id TEXT PRIMARY KEY, at FLOAT, payload {text})")
    connection.commit()
    insert = f"INSERT INTO rival VALUES ({mark}, {mark}, {mark})"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            created = []
            for row in rows:
                created.append({"id": str(uuid.uuid4()), "at": time.time()})
                values = (created[-1]["id"], created[-1]["at"], json.dumps(row))
                connection.execute(insert, values)
            connection.commit()
            reply = json.dumps(created).encode()
            self.send_response(201)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def rate(connection: http.client.HTTPConnection, body: bytes) -> float:
    """Return the traces per second of one batch."""
    since = time.perf_counter()
    post(connection, PATH, body)
    return BATCH / (time.perf_counter() - since)


def main() -> None:
    """Measure both alternately, on both databases."""
    bodies = make_bodies(10)
    with tempfile.TemporaryDirectory() as folder, database_urls(Path(folder)) as urls:
        for kind, url in urls.items():
            with running_store(url, Path(folder) / "artifacts") as (ours, _):
                server = serve_rival(kind, url)
                rival = http.client.HTTPConnection("127.0.0.1", server.server_port)
                pairs = [
                    (rate(ours, bodies[n % 10]), rate(rival, bodies[n % 10])) for n in range(ROUNDS)
                ]
                server.shutdown()
                print_figure(f"store_batch_{kind}", "traces/s", pairs[2:])


if __name__ == "__main__":
    main()
