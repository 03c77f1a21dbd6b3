"""Inputs that are not regular files, and the normal form of places, for every verb."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import yaml

from tests.builders import Invoke, TinyRun, letter_trace
from tests.k8s.twin import IMAGE
from tuneloop.jsonl import dump_line
from tuneloop.storage import paths
from tuneloop.store.db.engine import parse_url
from tuneloop.traces.client import TraceClient

EVAL_ITEM = {
    "id": "first",
    "prompt": "What is 1 + 1? 😀",
    "expected_answer": "2",
    "category": "sums",
    "difficulty": "easy",
}
DATA = {
    "traces": b"".join(dump_line(letter_trace(number)) for number in range(7)),
    "eval set": dump_line(EVAL_ITEM),
}

Pipe = Callable[[bytes], AbstractContextManager[str]]


@contextmanager
def fifo_with(folder: Path, data: bytes) -> Iterator[str]:
    path = folder / "input.jsonl"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    writer.start()
    yield str(path)
    writer.join(10)


@contextmanager
def stdin_with(monkeypatch: pytest.MonkeyPatch, data: bytes) -> Iterator[str]:
    reader, writer = os.pipe()
    feeder = threading.Thread(target=_feed, args=(writer, data), daemon=True)
    feeder.start()
    with os.fdopen(reader, "r") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield "-"
    feeder.join(10)


def _feed(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(data)


@pytest.fixture(params=["fifo", "-"])
def pipe(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """Return a context that gives the place of a pipe with these bytes."""
    if request.param == "fifo":
        return lambda data: fifo_with(tmp_path, data)
    return lambda data: stdin_with(monkeypatch, data)


def test_an_import_from_a_pipe_stores_what_it_says(
    tuneloop: Invoke, store: str, pipe: Pipe
) -> None:
    with pipe(DATA["traces"]) as place:
        code, out, err = tuneloop("traces", "import", place, "--store", store)
    assert (code, out) == (0, f"7 traces of {place} are in the store\n"), err
    with TraceClient(store) as client:
        assert len(list(client.iter_traces())) == 7


def test_an_eval_set_from_a_pipe(tuneloop: Invoke, pipe: Pipe) -> None:
    with pipe(DATA["eval set"]) as place:
        code, out, err = tuneloop("eval-sets", "check", place)
    assert (code, out) == (0, f"{place}: 1 items in 1 categories, no problems\n"), err


def test_a_spec_from_a_pipe(tuneloop: Invoke, tiny_run: TinyRun, pipe: Pipe) -> None:
    expected = tuneloop("plan", tiny_run.spec_path)
    with pipe(tiny_run.spec_path.read_bytes()) as place:
        assert tuneloop("plan", place) == expected
    assert expected[0] == 0


READERS = (
    ("traces", "import", "{}", "--store", "http://127.0.0.1:9"),
    ("eval-sets", "check", "{}"),
    ("plan", "{}"),
    ("run", "{}"),
    ("check", "{}"),
    ("submit", "{}"),
    ("render", "{}", "-o", "-"),
    ("runs", "show", "a-00000000", "--prices", "{}"),
    ("report", "a-00000000", "--prices", "{}"),
    ("wait", "a-00000000", "--prices", "{}"),
    ("serve", "--tokens", "{}", "--port", "0"),
    ("serve", "--prices", "{}", "--port", "0"),
    ("examples", "inspect", "{}"),
    ("examples", "stats", "{}"),
    ("examples", "export", "{}"),
    ("examples", "stats", "x", "--tokenizer", "{}"),
    ("models", "check", "m", "--reference", "{}"),
)


@pytest.mark.parametrize("verb", READERS, ids=" ".join)
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/dev/zero", "/dev/zero: is a device, expected a regular file"),
        ("", "'': is an empty place, expected a path or a URL"),
        ("simplecache::memory://x", "is a chain of file systems"),
        ("s3://", "s3://: names no bucket or host"),
        ("data:,x", "data:,x: is a URL that holds data"),
    ],
)
def test_every_reader_refuses_at_once(
    tuneloop: Invoke, verb: tuple[str, ...], place: str, said: str
) -> None:
    code, out, err = tuneloop(*(word.replace("{}", place) for word in verb))
    assert (code, out) == (2, "")
    assert err.startswith("tuneloop: ")
    assert said in err
    assert len(err.splitlines()) == 1


PLACES = (
    ("datasets", "list", "--artifacts", "{}"),
    ("datasets", "show", "a-v1", "--artifacts", "{}"),
    ("datasets", "export", "a-v1", "--artifacts", "{}"),
    ("models", "list", "--artifacts", "{}"),
    ("models", "show", "a", "--artifacts", "{}"),
    ("runs", "list", "--artifacts", "{}"),
    ("runs", "show", "a-00000000", "--artifacts", "{}"),
    ("runs", "du", "--artifacts", "{}"),
    ("runs", "gc", "--artifacts", "{}"),
    ("status", "a-00000000", "--artifacts", "{}"),
    ("logs", "a-00000000", "--artifacts", "{}"),
    ("report", "a-00000000", "--artifacts", "{}"),
    ("verify", "a-00000000", "--artifacts", "{}"),
    ("serve", "--artifacts", "{}", "--port", "0"),
    ("demo", "--workdir", "{}"),
)


@pytest.mark.parametrize("verb", PLACES, ids=" ".join)
@pytest.mark.parametrize("place", ["", " "])
def test_empty_artifacts_are_refused(tuneloop: Invoke, verb: tuple[str, ...], place: str) -> None:
    code, out, err = tuneloop(*(word.replace("{}", place) for word in verb))
    assert (code, out) == (2, "")
    assert f"tuneloop: {place!r}: is an empty place" in err


@pytest.mark.parametrize("verb", [verb for verb in PLACES if verb[0] != "demo"], ids=" ".join)
@pytest.mark.parametrize("protocol", ["hf", "https", "ftp", "zip"])
def test_artifacts_need_a_protocol_that_creates_objects_once(
    tuneloop: Invoke, verb: tuple[str, ...], protocol: str
) -> None:
    code, out, err = tuneloop(*(word.replace("{}", f"{protocol}://a/b") for word in verb))
    assert (code, out) == (2, "")
    assert err.startswith(
        f"tuneloop: {protocol}://a/b: artifacts cannot be published over {protocol}://"
    )


def test_the_home_folder_and_two_colons(
    tuneloop: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_url("sqlite:///~/a ü.db").database == str(tmp_path / "a ü.db")
    assert paths.absolute("~/a") == str(tmp_path / "a")
    (tmp_path / "a::b ü.jsonl").write_bytes(DATA["eval set"])
    for place in ("~/a::b ü.jsonl", f"{tmp_path}/a::b ü.jsonl", f"file://{tmp_path}/a::b ü.jsonl"):
        code, out, _ = tuneloop("eval-sets", "check", place)
        assert (code, out) == (0, f"{place}: 1 items in 1 categories, no problems\n")


def test_manifests_on_standard_output(tuneloop: Invoke, tiny_run: TinyRun, tmp_path: Path) -> None:
    spec = tiny_run.change(execution__cluster={"namespace": "n", "image": IMAGE}).spec_path
    code, out, err = tuneloop("render", spec, "-o", "-")
    assert code == 0, err
    folder = tmp_path / "rendered"
    assert tuneloop("render", spec, "-o", folder)[0] == 0
    applied = [
        each for path in folder.glob("*.yaml") for each in yaml.safe_load_all(path.read_bytes())
    ]
    streamed = list(yaml.safe_load_all(out))
    assert sorted(map(str, streamed)) == sorted(map(str, applied))
    assert not Path("-").exists()
