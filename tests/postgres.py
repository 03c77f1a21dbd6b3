"""A PostgreSQL server for tests, from Debian's package, in a new folder and on a free port."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tuneloop.store.db.database import Database

PASSWORD = "a-test-password"
START_SECONDS = 30.0
MISSING = "no PostgreSQL under /usr/lib/postgresql; tests/debian-packages installs it"
# No data is needed after the tests, and they kill the store but never the database.
FORGETFUL = {"fsync": "off", "synchronous_commit": "off"}


def binaries() -> Path | None:
    """Return the folder of the newest installed server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version)
    return found[-1].parent if found else None


def _version(path: Path) -> float:
    return float(path.parent.parent.name)


class Postgres:
    """A running server that lends databases."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._names = (f"t{number}" for number in itertools.count())
        self._free: list[str] = []

    def url(self, name: str, *, user: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{name}"

    def run(self, statement: str, name: str = "postgres") -> None:
        """Run one statement as the superuser."""
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            connection.execute(statement.encode())

    def new_database(self) -> str:
        """Create an empty database; returns its name."""
        name = next(self._names)
        self.run(f"CREATE DATABASE {name}")
        return name

    @contextlib.contextmanager
    def lent(self) -> Iterator[Callable[[], str]]:
        """Yield URLs of databases with the store's tables and no rows; takes them back at the end.

        Creating a database takes 8 MB and some time, so databases are emptied and reused.
        """
        names = []

        def lend() -> str:
            names.append(self._free.pop() if self._free else self._with_tables())
            return self.url(names[-1])

        yield lend
        for name in names:
            self.run("TRUNCATE traces, scores, labels, idempotency RESTART IDENTITY", name)
        self._free += names

    def _with_tables(self) -> str:
        name = self.new_database()
        Database(self.url(name)).close()
        return name


@contextlib.contextmanager
def running_postgres(*, fsync: bool = False) -> Iterator[Postgres]:
    """Start a server. If none is installed, the test is skipped, or fails under CI.

    Args:
        fsync: make commits durable against machine failures, which only benchmarks need.
    """
    folder = binaries()
    if folder is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    home = Path(tempfile.mkdtemp(prefix="tuneloop-postgres-"))
    owner = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root.
    if owner:
        shutil.chown(home, owner)
    try:
        with _server(folder, home, owner, {} if fsync else FORGETFUL) as port:
            yield Postgres(port)
    finally:
        shutil.rmtree(home)


@contextlib.contextmanager
def _server(folder: Path, home: Path, owner: str | None, settings: dict[str, str]) -> Iterator[int]:
    data, secret = home / "data", home / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    made: list[str | Path] = [
        folder / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "--encoding=UTF8",
        "--no-sync",
    ]
    made += ["--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={secret}"]
    subprocess.run(made, check=True, user=owner, cwd=home, stdout=subprocess.DEVNULL)
    port = free_port()
    command: list[str | Path] = [
        folder / "postgres",
        "-D",
        data,
        "-p",
        str(port),
        "-k",
        home,
        "-h",
        "127.0.0.1",
    ]
    for name, value in {"max_connections": "200", **settings}.items():
        command += ["-c", f"{name}={value}"]
    with (home / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, user=owner, cwd=home, stdout=log, stderr=log)
        try:
            _wait(process, port, home / "log.txt")
            yield port
        finally:
            # SIGQUIT means an immediate shutdown, since no data is worth keeping.
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=30)


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(
                host="127.0.0.1", port=port, user="postgres", password=PASSWORD, dbname="postgres"
            ).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")
