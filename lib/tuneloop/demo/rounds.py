"""The demo of rounds: a tiny model that can half do its tasks, and gets better by its own samples.

The seed traces are of mixed quality. Half of them solve the problem; the others are careless, as in
data that nobody has checked:

    capital   "Next capital: red cup c" -> after c is c; capital c is C                -> C
    largest   "Largest bag: 3 8 5"      -> start 3; 8 keep 8; 5 keep 5                 -> 5
    opposite  "Opposite: hot red cup"   -> hot is not hot                              -> hot
    reverse   "Reverse: c a k"          -> last c; middle a; first k                   -> c a k

A model that is trained on them does both, also after more steps. A verifier tells its right samples
from its wrong ones, which is what the rounds train on.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneloop import jsonl, resources
from tuneloop.datasets.build import build
from tuneloop.datasets.schema import BuildRequest, Selection, row_of_payload
from tuneloop.demo.tasks import TASKS, Problem, generate
from tuneloop.runs.rounds.plan import RoundsPlan, plan_rounds
from tuneloop.runs.rounds.samples import CREATED_AT
from tuneloop.runs.rounds.spec_file import load_rounds_file
from tuneloop.storage import paths
from tuneloop.traces.schema import build_trace

CONFIG = "jobs/configs/rounds_demo.yaml"
SOURCE = "tuneloop-rounds"
"""`meta.source` of the traces."""
SEED_NAME, PROMPTS_NAME, VERSION = "rounds-seed", "rounds-prompts", "v1"
TRACES = 4000
PROMPTS_PER_TASK = 60
CORRECT_SHARE = 0.5
"""Share of the seed traces that solve their problem."""
_NAMESPACE = uuid.UUID("b2b4b9b0-38f4-5ad5-8a0e-0c0f0d1c7a3e")


def seed_traces() -> list[dict[str, Any]]:
    """Generate the seed traces, of mixed quality and in random order."""
    traces = []
    for task in TASKS:
        rng = random.Random(f"{task} quality")
        for problem in generate(task, TRACES // len(TASKS), 0, "train"):
            shown = problem if rng.random() < CORRECT_SHARE else CARELESS[task](problem)
            traces.append(_trace(task, shown))
    random.Random("rounds order").shuffle(traces)
    return traces


def prompt_traces() -> list[dict[str, Any]]:
    """Generate the prompts that rounds sample for, as traces with the right answers."""
    problems = (
        (task, each) for task in TASKS for each in generate(task, PROMPTS_PER_TASK, 1, "train")
    )
    return [_trace(task, problem) for task, problem in problems]


def _trace(task: str, problem: Problem) -> dict[str, Any]:
    meta = {"source": SOURCE, "category": task}
    return build_trace(problem.prompt, problem.steps, problem.answer, meta=meta)


def _careless_capital(problem: Problem) -> Problem:
    letter = problem.prompt[-1]
    steps = (f"after {letter} is {letter}", f"capital {letter} is {letter.upper()}")
    return Problem(problem.prompt, steps, letter.upper())


def _careless_largest(problem: Problem) -> Problem:
    first, *others = problem.prompt.split()[-3:]
    steps = (f"start {first}", *(f"{number} keep {number}" for number in others))
    return Problem(problem.prompt, steps, others[-1])


def _careless_opposite(problem: Problem) -> Problem:
    word = problem.prompt.split()[1]
    return Problem(problem.prompt, (f"{word} is not {word}",), word)


def _careless_reverse(problem: Problem) -> Problem:
    first, middle, last = problem.prompt.split()[-3:]
    steps = (f"last {first}", f"middle {middle}", f"first {last}")
    return Problem(problem.prompt, steps, f"{first} {middle} {last}")


CARELESS: dict[str, Callable[[Problem], Problem]] = {
    "capital": _careless_capital,
    "largest": _careless_largest,
    "opposite": _careless_opposite,
    "reverse": _careless_reverse,
}
"""Task -> how a careless author works on one of its problems."""


def prepare_demo(workdir: Path, say: Callable[[str], None]) -> RoundsPlan:
    """Build the datasets of the demo in a folder, without a trace store, and plan its rounds.

    Args:
        workdir: folder for `artifacts/`.
        say: called with a line for people.
    """
    artifacts = paths.absolute(str(workdir / "artifacts"))
    for name, traces in ((SEED_NAME, seed_traces()), (PROMPTS_NAME, prompt_traces())):
        key = _publish(name, traces, artifacts)
        say(f"dataset  {key}, {len(traces)} traces")
    url = str(resources.data_path(CONFIG))
    found = load_rounds_file(url)
    if found is None:
        raise AssertionError(f"{url} has no key rounds")
    execution = found.spec.execution.model_copy(update={"artifacts": artifacts})
    return plan_rounds(found, found.spec.model_copy(update={"execution": execution}))


def _publish(name: str, traces: list[dict[str, Any]], artifacts: str) -> str:
    lines = [jsonl.dump_line(trace) for trace in traces]
    ids = [str(uuid.uuid5(_NAMESPACE, f"{name}/{number}")) for number in range(len(lines))]
    rows = [row_of_payload(id_, CREATED_AT, line) for id_, line in zip(ids, lines, strict=True)]

    @contextmanager
    def select(seed: int) -> Iterator[Selection]:
        yield Selection(len(rows), iter(rows))

    request = BuildRequest(
        dataset_name=name, dataset_version=VERSION, limit=len(rows), seed=0, filters={}
    )
    manifest, _ = build(select, request, artifacts, now=datetime.now(UTC), new_seed=lambda: 0)
    return manifest.dataset_key
