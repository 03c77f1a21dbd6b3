"""Random inputs of the kinds that have failed: what the verbs and the store make of them.

Each trial damages an input and runs a real verb in this process, or sends a request to a real
store. The result must be success, or one sentence with a documented exit code (a 4xx of the store),
within a time. A traceback, an exit code of 70, several lines or a 5xx is a failure.

Usage:
    python -m tests.inputs.trials [--seconds 600] [--seed 0] [--only KIND]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from tests.builders import letter_trace, publish_dataset, write_eval_set
from tests.exported_run import example_line
from tests.finished_run import publish_run
from tests.history.corruptions import KINDS as CORRUPTIONS
from tests.history.corruptions import corrupt
from tests.inputs import texts
from tuneloop import cli
from tuneloop.runs import store_app

CASE_SECONDS = 20
"""Seconds after which a trial counts as hanging."""
RUN_ID = "letters-7c1aa298"
SPEC = """\
name: mine
dataset: letters-v1
seed: 3
train:
  model: {kind: random, num_layers: 1, embed_dim: 16, hidden_dim: 32, num_heads: 2, head_dim: 8}
  tokenizer: {vocab_size: 300}
  optimizer: {learning_rate: 1e-2, max_grad_norm: 1.0}
  method: {kind: lora, rank: 4}
  steps: 3
  batch_size: 8
  max_length_tokens: 96
eval: {eval_set: eval.jsonl, batch_size: 2, max_new_tokens: 8}
execution:
  artifacts: artifacts
  checkpoint_every_steps: 4
  cluster: {namespace: ml, image: "r.example/x@sha256:IMAGE", ttl_days: 3, train: {spot: false}}
""".replace("IMAGE", "a" * 64)
PRICES = """\
currency: USD
per_hour:
  v5e: {on_demand: 1.2, spot: 0.4}
  cpu: {on_demand: 0.1}
"""
PLACES: tuple[str, ...] = (
    "",
    " ",
    "~nobody/x",
    "~/nothing",
    "a::b",
    "::",
    "-",
    ".",
    "\n",
    "x" * 300,
)
PLACES += ("/dev/zero", "/dev/null", "/proc/self/mem", "folder", "loop", "gone/x", "file/x")
PLACES += ("memory://", "memory://x", "file://", "s3://", "gs://", "hf://", "data:,x")
PLACES += (
    "nothing://x",
    "simplecache::memory://x",
    "\udcff",
    "é😀",
)
READERS = (
    ("plan", "{}"),
    ("render", "{}", "-o", "-"),
    ("eval-sets", "check", "{}"),
    ("examples", "inspect", "{}"),
    ("examples", "stats", "{}"),
    ("examples", "export", "{}"),
    ("runs", "show", RUN_ID, "--artifacts", "artifacts", "--prices", "{}"),
    ("traces", "import", "{}"),
)
OF_ARTIFACTS = (
    ("datasets", "list"),
    ("datasets", "show", "letters-v1"),
    ("datasets", "export", "letters-v1"),
    ("models", "list"),
    ("runs", "list"),
    ("runs", "list", "--rebuild"),
    ("runs", "show", RUN_ID),
    ("runs", "compare", RUN_ID, RUN_ID),
    ("runs", "du"),
    ("runs", "gc"),
    ("status", RUN_ID),
    ("explain", RUN_ID),
    ("logs", RUN_ID),
    ("report", RUN_ID),
    ("gate", RUN_ID),
    ("verify", RUN_ID),
)
"""Verbs that read artifacts."""
PATHS = (
    *("/api/traces", "/traces", "/api/traces/compare", "/api/datasets/letters-v1/export.jsonl"),
    *("/datasets", "/runs", "/runs/compare", f"/runs/{RUN_ID}", f"/runs/{RUN_ID}/examples", "/"),
    *("/api/datasets/letters-v1/shards/traces-00000-of-00001.jsonl", "/metrics", "/readyz"),
)
NAMES: tuple[str, ...] = (
    "limit",
    "offset",
    "cursor",
    "source",
    "created_after",
    "q",
    "format",
    "shard",
    "num_shards",
)
NAMES += ("a", "b", "base", "other", "page", "row", "id", "", "\x00", "filters[]")


@dataclass
class Tally:
    """The outcomes of the trials."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


class Hangs(BaseException):
    """A trial has taken too long."""


class World:
    """A folder with a dataset, a finished run and files to damage, and a store on them."""

    def __init__(self, folder: Path, http: TestClient) -> None:
        """Use what `world` has made."""
        self.folder, self.http = folder, http

    def spec(self, draw: random.Random) -> str:
        """Plan or render a damaged spec."""
        Path("run.yaml").write_bytes(texts.spec(draw, SPEC))
        return verb(*draw.choice(READERS[:2]), place="run.yaml")

    def traces(self, draw: random.Random) -> str:
        """Import damaged traces from a file, in one of the formats."""
        kind = draw.choice(["trace", "messages"])
        rows = [letter_trace(number) for number in range(3)]
        if kind == "messages":
            answer = draw.choice(
                ["<think>a</think>4", "a</think>4", "<think></think>", "4", "<think>"]
            )
            turns = [
                {"role": draw.choice(["user", "system", "tool"]), "content": "2+2?"},
                {
                    "role": "assistant",
                    "content": answer,
                    draw.choice(["x", "reasoning_content"]): "r",
                },
            ]
            rows = [{"messages": turns, "id": number} for number in range(3)]
        Path("in.jsonl").write_bytes(texts.lines(draw, rows))
        return verb(*READERS[7], "--format", kind, place="in.jsonl")

    def eval_sets(self, draw: random.Random) -> str:
        """Check a damaged eval set."""
        rows = [json.loads(line) for line in Path("eval.jsonl").read_bytes().splitlines()[:3]]
        rows[0]["prompt"] = draw.choice(["10² = ?", "102 = ?", "13 + 4 =", "a ≠ b", "x⁻¹", "½ + ½"])
        rows[1]["expected_answer"] = draw.choice(["25", "2⁵", "½", "1:30", "∞", "-0"])
        Path("set.jsonl").write_bytes(texts.lines(draw, rows))
        return verb(*READERS[2], place="set.jsonl")

    def examples(self, draw: random.Random) -> str:
        """Look at damaged examples."""
        rows = [json.loads(example_line(number, "p", "r")) for number in range(3)]
        Path("examples.jsonl").write_bytes(texts.lines(draw, rows))
        return verb(*draw.choice(READERS[3:6]), place="examples.jsonl")

    def prices(self, draw: random.Random) -> str:
        """Read a damaged list of prices."""
        Path("prices.yaml").write_bytes(texts.spec(draw, PRICES))
        return verb(*READERS[6], place="prices.yaml")

    def places(self, draw: random.Random) -> str:
        """Name odd places."""
        readers = [*READERS, *(("--artifacts", *each) for each in OF_ARTIFACTS)]
        words = draw.choice(readers)
        if words[0] == "--artifacts":
            words = (*words[1:], "--artifacts", "{}")
        return verb(*words, place=draw.choice(PLACES))

    def records(self, draw: random.Random) -> str:
        """Damage one or two files of the artifacts, or replace them by JSON of another shape."""
        shutil.rmtree("damaged", ignore_errors=True)
        shutil.copytree("artifacts", "damaged")
        root = Path("damaged")
        names = sorted(str(each.relative_to(root)) for each in root.rglob("*") if each.is_file())
        for _ in range(draw.randint(1, 2)):
            name = draw.choice(names)
            if draw.random() < 0.5 or not (root / name).is_file():
                with contextlib.suppress(OSError):
                    corrupt(root, name, draw.choice(CORRUPTIONS), draw, names)
            else:
                (root / name).write_bytes(_other_shape(draw, (root / name).read_bytes()))
        words = draw.choice(OF_ARTIFACTS)
        return verb(*words, "--artifacts", "{}", place="damaged")

    def requests(self, draw: random.Random) -> str:
        """Ask the store with odd queries, paths, filters and bodies."""
        value = draw.choice([str(each) for each in (*texts.VALUES, *texts.SCALARS, *PLACES)])
        way, name = draw.randrange(4), draw.choice(NAMES)
        if way == 0:
            query = "&".join(f"{quoted(n)}={quoted(value)}" for n in draw.sample(NAMES, 2))
            reply = self.http.get(f"{draw.choice(PATHS)}?{query}"[:60_000])
        elif way == 1:
            path = draw.choice(PATHS).rstrip("/")
            reply = self.http.get(f"{path}/{quoted(value)[:8000]}?{quoted(name)}=1")
        elif way == 2:
            path = draw.choice(
                ["a", "/a/0", "/" * 70, "a~2", "", "\x00", "/a/\u0661", "x" * 5000, "\ud800"]
            )
            filters = {path: draw.choice(texts.VALUES)} if draw.random() < 0.9 else []
            row = {"dataset_name": "d", "dataset_version": f"v{draw.random()}", "filters": filters}
            reply = self._post(draw, "/api/datasets/build", texts.lines(draw, [row]))
        else:
            row = letter_trace(3)
            body = texts.lines(draw, [row] if draw.random() < 0.5 else [row, row])
            path = draw.choice(["/api/traces", "/api/traces/batch", "/api/traces/x/score"])
            reply = self._post(draw, path, body)
        if reply.status_code >= 500:
            raise AssertionError(
                f"{reply.request.url!s:.200}: {reply.status_code} {reply.text[:300]}"
            )
        return f"{reply.status_code // 100}xx"

    def _post(self, draw: random.Random, path: str, body: bytes) -> Any:
        kind = draw.choice(["application/json", "application/x-ndjson"])
        return self.http.post(path, content=body, headers={"Content-Type": kind})

    def all(self) -> dict[str, Callable[[random.Random], str]]:
        """Return the kinds of trials by name."""
        kinds = (self.spec, self.traces, self.eval_sets, self.examples, self.prices)
        return {each.__name__: each for each in (*kinds, self.places, self.records, self.requests)}


def quoted(text: str) -> str:
    """Encode any text for a URL, also what is not Unicode."""
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def _other_shape(draw: random.Random, data: bytes) -> bytes:
    """Change JSON as `texts.lines` does, and seal nothing again; other files become noise."""
    try:
        rows = [json.loads(data)]
    except ValueError:
        return texts.packed(draw, data)
    if not isinstance(rows[0], dict) or not rows[0]:
        return texts.packed(draw, data)
    return texts.lines(draw, rows)


def verb(*words: str, place: str) -> str:
    """Run a verb in this process; raises AssertionError if its result is not a documented one."""
    arguments = ["tuneloop", *(word.replace("{}", place) for word in words)]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))
    given, sys.argv = sys.argv, arguments
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as e:
        code = int(e.code or 0)
    finally:
        sys.argv = given
    for stream in (out, err):
        stream.flush()
    said = err.buffer.getvalue().decode()
    if code == 0:
        return "success"
    lines = [line for line in said.splitlines() if line.startswith("tuneloop: ")]
    is_usage = code == 2 and said.startswith("Usage: ")
    if code == 70 or "Traceback" in said:
        raise AssertionError(f"exit code {code}: {said[-1500:]}")
    if not is_usage and (len(lines) != 1 or len(lines[0]) > 3000):
        raise AssertionError(f"exit code {code}, not one sentence: {said[:1500]}")
    return "refused"


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Make a folder with the inputs, work in it, and remove it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        try:
            publish_dataset("artifacts", [letter_trace(number) for number in range(30)])
            publish_run("artifacts", "letters-v1", RUN_ID)
            write_eval_set(folder / "eval.jsonl")
            (folder / "folder").mkdir()
            (folder / "file").write_text("x")
            (folder / "loop").symlink_to("loop")
            app = store_app.build_app(f"sqlite:///{folder / 'store.db'}", str(folder / "artifacts"))
            imports = store_app.running(f"sqlite:///{folder / 'imports.db'}", str(folder))
            with TestClient(app, base_url="http://127.0.0.1") as http, imports as url:
                os.environ["TUNELOOP_STORE"] = url
                yield World(folder, http)
        finally:
            os.chdir(before)
            os.environ.pop("TUNELOOP_STORE", None)


def _hang(*_: object) -> None:
    raise Hangs


def run(seconds: float, seed: int, only: str | None = None, count: int = 1 << 60) -> Tally:
    """Run trials for some seconds, or a number of them; trial n of a seed is always the same."""
    tally, until = Tally(), time.monotonic() + seconds
    before = signal.signal(signal.SIGALRM, _hang)
    try:
        with world() as made:
            kinds = list(made.all().items())
            for number in range(count):
                if time.monotonic() > until:
                    break
                name, trial = kinds[number % len(kinds)]
                if only in (None, name):
                    _one(tally, f"{name} --seed {seed} number {number}", name, trial)
    finally:
        signal.signal(signal.SIGALRM, before)
    return tally


def _one(tally: Tally, what: str, name: str, trial: Callable[[random.Random], str]) -> None:
    draw, since = random.Random(what), time.thread_time()
    signal.alarm(CASE_SECONDS)
    try:
        tally.outcomes[f"{name}: {trial(draw)}"] += 1
    except Hangs:
        tally.failures.append(f"{what}: took more than {CASE_SECONDS} s\n{traceback.format_exc()}")
    except Exception:
        tally.failures.append(f"{what}:\n{traceback.format_exc()}")
    finally:
        signal.alarm(0)
    tally.slowest = max(tally.slowest, (time.thread_time() - since, what))


def main() -> None:
    """Run the trials and print the figures, the last line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only")
    arguments = parser.parse_args()
    tally = run(arguments.seconds, arguments.seed, arguments.only)
    total = sum(tally.outcomes.values()) + len(tally.failures)
    lines = [
        *tally.failures,
        json.dumps(tally.outcomes, sort_keys=True, indent=1),
        f"slowest: {tally.slowest[0]:.1f} s of processor time, {tally.slowest[1]}",
        json.dumps(
            {
                "figure": "random inputs",
                "value": len(tally.failures),
                "unit": f"failures of {total}",
            }
        ),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
