"""Honest clients of the store while it is attacked: errors, p99, and the server's peak memory.

Twenty clients post batches, list and read traces while another process sends heads and bodies
without an end, reads exports slowly, asks for too many filters, holds idle connections, guesses
tokens and asks with NUL. It runs ten minutes for each database; `--seconds N` changes that.
The attackers and the clients take processor time from the store, so p99 depends on the machine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from figure import print_figure, sized
from store import database_urls, peak_mib, running_store

from tests.store.stores import check_batches
from tuneloop.errors import TuneloopError
from tuneloop.store.middleware.auth import new_token
from tuneloop.traces.client import TraceClient

SECONDS = sized(600, 1)
CLIENTS = sized(20, 2)
TRACES = 10
"""Traces of one honest batch."""
PEAK_MIB = 600
P99_MILLISECONDS = 1000
ATTACK = "--attack"
EXPORT = "/api/datasets/slow-v1/export.jsonl"
MIB = 1 << 20


class Attacker:
    """Attacks on a store at 127.0.0.1; each method is one of them, once."""

    def __init__(self, port: int, token: str) -> None:
        """Attack the store at a port, with a token that may write."""
        self.port, self.token, self.idle = port, token, list[socket.socket]()
        self.authorization = f"Authorization: Bearer {token}\r\n"

    def open(self, head: str = "") -> socket.socket:
        """Connect and send the beginning of a request."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(head.encode())
        return connection

    def ask(self, method: str, path: str, body: bytes | None = None, token: str = "") -> None:
        """Send one whole request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {token or self.token}"}
            connection.request(method, path, body, headers)
            connection.getresponse().read()

    def endless_head(self) -> None:
        """Send headers until the store closes the connection."""
        with self.open("GET / HTTP/1.1\r\nHost: h\r\n") as connection:
            for _ in range(500):
                connection.sendall(b"a: " + b"b" * 30_000 + b"\r\n")

    def unfinished_body(self) -> None:
        """Send all of a large batch but the end, then wait."""
        head = (
            f"POST /api/traces/batch HTTP/1.1\r\nHost: h\r\n{self.authorization}"
            f"Content-Length: {63 * MIB}\r\n\r\n"
        )
        with self.open(head) as connection:
            for _ in range(62):
                connection.sendall(b"[" * MIB)
            time.sleep(10)

    def trickled_body(self) -> None:
        """Send a body byte by byte."""
        head = f"POST /api/traces HTTP/1.1\r\nHost: h\r\n{self.authorization}Content-Length: 999"
        with self.open(f"{head}\r\n\r\n") as connection:
            for _ in range(999):
                connection.sendall(b" ")
                time.sleep(0.1)

    def slow_readers(self) -> None:
        """Ask for an export many times and read nothing."""
        with contextlib.ExitStack() as held:
            for _ in range(50):
                connection = held.enter_context(socket.socket())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect(("127.0.0.1", self.port))
                request = f"GET {EXPORT} HTTP/1.1\r\nHost: h\r\n{self.authorization}\r\n"
                connection.sendall(request.encode())
            time.sleep(5)

    def filters(self) -> None:
        """Ask for many filters, or for deep ones."""
        many: dict[str, int] = {f"k{n}": n for n in range(1500)}
        filters = random.choice([many, {"/a" * 5000: 1}, {"k" * 100_000: 1}])
        request = {"dataset_name": "x", "dataset_version": "1", "filters": filters}
        self.ask("POST", "/api/datasets/build", json.dumps(request).encode())

    def nested_meta(self) -> None:
        """Post a large trace that takes far more memory than its JSON."""
        lists = b"[]," * (5 * MIB)
        trace = b'{"trace_version":"1","prompt":"p","final_answer":"a","steps":[{"i":0,"type":"t",'
        self.ask(
            "POST", "/api/traces/batch", b"[" + trace + b'"content":"c"}],"meta":{"a":[' + lists
        )

    def probes(self) -> None:
        """Ask for readiness."""
        self.ask("GET", "/readyz")

    def idle_connections(self) -> None:
        """Hold connections that send nothing."""
        self.idle += [self.open() for _ in range(100)]
        while len(self.idle) > 1500:
            self.idle.pop(0).close()

    def wrong_tokens(self) -> None:
        """Guess a token."""
        self.ask("GET", "/api/traces", token="wrong")

    def odd_queries(self) -> None:
        """Ask with NUL and with long values."""
        for query in ("source=%00", "source=" + "x" * 9000, "%00=1"):
            self.ask("GET", f"/api/traces?{query}")

    def all(self) -> list[Callable[[], None]]:
        """Return each attack as often as it runs at the same time."""
        return [
            *[self.endless_head] * 2,
            *[self.unfinished_body] * 6,
            *[self.trickled_body] * 4,
            *[self.slow_readers] * 2,
            *[self.filters] * 2,
            self.nested_meta,
            self.probes,
            self.idle_connections,
            self.wrong_tokens,
            self.odd_queries,
        ]


def attack(port: int, token: str) -> None:
    """Attack until this process is ended."""

    def repeat(once: Callable[[], None]) -> None:
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                once()
            time.sleep(0.2)

    attacker = Attacker(port, token)
    threads = [threading.Thread(target=repeat, args=(each,)) for each in attacker.all()]
    for thread in threads:
        thread.start()
    threads[0].join()


def make_batch(name: str) -> list[dict[str, object]]:
    """Make a batch as `check_batches` expects it."""
    return [
        {
            "trace_version": "1.0",
            "prompt": f"{name} {n}",
            "final_answer": "1",
            "steps": [{"i": 0, "type": "t", "content": "s" * 500}],
            "meta": {"batch": name, "i": n},
        }
        for n in range(TRACES)
    ]


class Honest:
    """What the honest clients have seen."""

    def __init__(self) -> None:
        """Start without requests."""
        self.sent: dict[str, int] = {}
        self.acked: set[str] = set()
        self.seconds: list[float] = []
        self.errors: Counter[str] = Counter()

    def run(self, url: str, token: str, number: int, until: float) -> None:
        """Post, list and read, as one client."""
        with TraceClient(url, token=token) as client:
            for count in range(1_000_000):
                if time.monotonic() > until:
                    return
                name, ids = f"{number}-{count}", list[str]()
                self.sent[name] = TRACES

                def post(name: str = name, ids: list[str] = ids) -> None:
                    ids += client.post_batch(make_batch(name), name)
                    self.acked.add(name)

                self.measure(post)
                self.measure(lambda: list(client.iter_traces(limit=20)))
                self.measure(lambda ids=ids: [client.get_trace(one) for one in ids[:1]])  # type: ignore[misc]
                time.sleep(0.2)

    def measure(self, call: Callable[[], object]) -> None:
        """Time one request, its retries included."""
        since = time.monotonic()
        try:
            call()
        except TuneloopError as e:
            self.errors[str(e)] += 1
        self.seconds.append(time.monotonic() - since)

    def percentile(self, part: float) -> float:
        """Return a percentile in milliseconds."""
        return sorted(self.seconds)[int(len(self.seconds) * part)] * 1000


def build_export(url: str, token: str) -> dict[str, int]:
    """Build the dataset that slow readers ask for; returns the sizes of its batches."""
    batch = [
        {**trace, "steps": [{"i": 0, "type": "t", "content": "s" * 17_000}]}
        for trace in make_batch("export")
    ]
    sent = {}
    with TraceClient(url, token=token) as client:
        for number in range(sized(100, 2)):
            name = f"export{number}"
            for trace in batch:
                trace["meta"] = {**trace["meta"], "batch": name}  # type: ignore[dict-item]
            client.post_batch(batch, name)
            sent[name] = TRACES
        client.build_dataset({"dataset_name": "slow", "dataset_version": "v1", "limit": 1000})
    return sent


def soak(kind: str, database: str, folder: Path, seconds: float, token: str) -> None:
    """Attack one store, and print what its honest clients saw."""
    with running_store(database, folder) as (connection, pid):
        url = f"http://{connection.host}:{connection.port}"
        honest = Honest()
        honest.sent = build_export(url, token)
        honest.acked |= honest.sent.keys()
        command = [sys.executable, __file__, ATTACK, str(connection.port), token]
        attacker = subprocess.Popen(command)
        until = time.monotonic() + seconds
        clients = [
            threading.Thread(target=honest.run, args=(url, token, number, until))
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        attacker.kill()
        attacker.wait()
        peak = peak_mib(pid)
    check_batches(database, honest.sent, honest.acked)
    p50, p99, worst = (honest.percentile(part) for part in (0.5, 0.99, 0.999999))
    print(
        f"{kind}: {len(honest.seconds)} honest requests, {len(honest.acked)} batches acknowledged"
        f" and stored once, {honest.errors.total()} errors; p50 {p50:.0f} ms, p99 {p99:.0f} ms,"
        f" worst {worst:.0f} ms; server's peak {peak:.0f} MiB"
    )
    for error, count in honest.errors.most_common(5):
        print(f"  {count} x {error}")
    print_figure(f"store_soak_{kind}", "ms", [(p99, P99_MILLISECONDS)])
    if honest.errors or peak > PEAK_MIB:
        raise SystemExit(f"{kind}: expected no errors and a peak of at most {PEAK_MIB} MiB")


def main() -> None:
    """Attack a store on each database."""
    seconds = (
        float(sys.argv[sys.argv.index("--seconds") + 1]) if "--seconds" in sys.argv else SECONDS
    )
    token, line = new_token("soak", "write")
    os.environ["TUNELOOP_TOKENS"] = line
    with tempfile.TemporaryDirectory() as folder, database_urls(Path(folder)) as urls:
        for kind, url in urls.items():
            soak(kind, url, Path(folder) / kind, seconds, token)


if __name__ == "__main__":
    if ATTACK in sys.argv:
        attack(int(sys.argv[-2]), sys.argv[-1])
    else:
        main()
