"""Fixtures for all tests: golden files, runs, stores and databases."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl import logging as absl_logging
from hypothesis import HealthCheck, settings

# These variables must be set before JAX, gcsfs and the specs are imported. JAX's cache persists
# between test runs, so the tests' tiny models compile once per machine; git ignores its folder.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
os.environ["JAX_PLATFORMS"] = "cpu"
# Programs of tests run for seconds, so compiling them quickly matters more than their speed.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# gcsfs would ask for the bucket's kind over gRPC, which the emulator does not support.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# The fields of specs have descriptions, as in the generated reference.
os.environ["TUNELOOP_DESCRIBE_FIELDS"] = "1"

from tests.builders import REPOSITORY, Invoke, TinyRun, make_tiny_run
from tests.markers import SLOW, markers_of_file, markers_of_fixtures
from tests.postgres import Postgres, running_postgres
from tuneloop import cli
from tuneloop.runs import store_app
from tuneloop.store.db.database import Database

# Imports and tracing create many objects and few cycles. With Python's default of 700 the collector
# takes a sixth of the processor time of tests that use JAX.
gc.set_threshold(50_000, 10, 10)

pytest_plugins = ["tests.confusion", "tests.store_fixtures"]
TESTS = Path(__file__).resolve().parent
GOLDEN = TESTS / "golden"

# The speed of the machine is not a property of the code.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
settings.register_profile("quick", settings.get_profile("tests"), max_examples=20)

# Tunix logs through absl, whose handler closes any stream that is not the process's own.
# If absl were imported within a test, its handler would have pytest's captured stream. uvicorn,
# which configures logging again, would then close that stream for all later tests.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import files of slow tests when only fast tests are asked for."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return True if markers_of_file(collection_path, TESTS) & SLOW else None


@pytest.hookimpl(tryfirst=True)  # before pytest selects tests by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, imports and fixtures: tests/markers.py has the tables."""
    for item in items:
        given = {mark.name for mark in item.iter_markers()}
        found = given | markers_of_file(item.path, TESTS)
        found |= markers_of_fixtures(getattr(item, "fixturenames", []))
        found |= {"slow"} if found & SLOW else set()
        for name in sorted(found - given):
            item.add_marker(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that imports JAX and is not marked so."""
    before = "jax" in sys.modules
    yield
    if "jax" in sys.modules and not before and item.get_closest_marker("jax") is None:
        pytest.fail("this test imports JAX: add its file or fixture to tests/markers.py")


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare text with a committed file; `make golden` writes the file, but never under CI."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("TUNELOOP_WRITE_GOLDEN"):
            if os.environ.get("CI"):
                pytest.fail("goldens are not rewritten under CI")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        assert path.is_file(), f"{path} is missing: run `make golden` and look at the diff"
        assert text == path.read_bytes().decode(), f"{name} changed: `make golden`, then look"

    return check


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root folder of the checkout under test."""
    return REPOSITORY


@pytest.fixture
def tiny_run(tmp_path: Path) -> TinyRun:
    """A small run in the test's own folder."""
    return make_tiny_run(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """Run a trace store on a free loopback port; yields its URL."""
    database = f"sqlite:///{tmp_path / 'store.db'}"
    with store_app.running(database, str(tmp_path / "artifacts")) as url:
        yield url


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Run a PostgreSQL server for this test worker."""
    with running_postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """A function that creates empty databases of each kind in turn; it returns their URLs."""
    if request.param == "postgresql":
        running: Postgres = request.getfixturevalue("postgres")
        with running.lent() as lend:
            yield lend
    else:
        numbers = itertools.count()
        yield lambda: f"sqlite:///{tmp_path / f'store{next(numbers)}.db'}"


@pytest.fixture
def database(new_database_url: Callable[[], str]) -> Iterator[Database]:
    """URL of an empty trace store's database; the test runs once for each kind."""
    opened = Database(new_database_url())
    yield opened
    opened.close()


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """URL of an SQLite database that does not exist yet."""
    return tmp_path / "store.db"


@pytest.fixture
def tuneloop(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], repository: Path
) -> Invoke:
    """A function that runs a verb in this process and returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(repository)
    monkeypatch.setenv("COLUMNS", "80")

    def invoke(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tuneloop", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capfd.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return invoke
