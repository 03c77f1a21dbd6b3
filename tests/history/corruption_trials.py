"""Random corruptions of a finished and of an unfinished run: what `verify` and `run` make of them.

Each trial copies a run, damages one random file (flip, truncate, swap, delete or link), and checks:

- `tuneloop verify` names the file;
- the finished run, run again, is repaired, or refused with the file's name, or has the same result;
- the training of the unfinished run ends with the same weights, or is refused with the file's name.

A different result without a word is a failure. Files that nothing describes, such as intermediate
files of a finished stage, are counted apart: nobody reads them.

Usage:
    python -m tests.history.corruption_trials [--trials 100] [--seed 0] [--only finished|unfinished]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.builders import TinyRun, make_tiny_run
from tests.history.corruptions import KINDS, corrupt
from tuneloop.artifacts import records
from tuneloop.artifacts.records import Record
from tuneloop.errors import TuneloopError
from tuneloop.history.verification.run import verify_run
from tuneloop.runs import store_app
from tuneloop.runs.local import LocalBackend
from tuneloop.runs.planning.plan import Plan, write_run_manifest
from tuneloop.runs.sequence import Sequence
from tuneloop.specs.stages import dump_stage_spec
from tuneloop.stages.lifecycle.contract import run_stage
from tuneloop.storage import files

STAGES = ("export", "train", "eval", "import")


@dataclass
class Tally:
    """The outcomes of the trials on one run."""

    named: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def main() -> None:
    """Run the trials and print the figures, the last line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["finished", "unfinished"])
    arguments = parser.parse_args()
    logging.basicConfig(stream=io.StringIO())
    with tempfile.TemporaryDirectory() as folder, _prepared(Path(folder)) as bases:
        for name, (run, reference) in bases.items():
            if arguments.only in (None, name):
                _report(name, _trials(name, run, reference, arguments.trials, arguments.seed))


@contextlib.contextmanager
def _prepared(folder: Path) -> Iterator[dict[str, tuple[TinyRun, dict[str, object]]]]:
    """Make a finished and an unfinished run, and the result that each has without damage."""
    bases = {}
    for name in ("finished", "unfinished"):
        (folder / name).mkdir()
        run = make_tiny_run(folder / name)
        steps = 12 if name == "finished" else 400
        run.change(train__steps=steps, execution__checkpoint_every_steps=steps // 4)
        bases[name] = run
    with store_app.running(f"sqlite:///{folder / 'store.db'}", bases["finished"].artifacts) as url:
        for run in bases.values():
            run.change(execution__store_url=url)
        _finish(bases["finished"].plan())
        _interrupt(bases["unfinished"].plan())
        whole = _copy(bases["unfinished"], folder / "whole")
        _finish_training(whole.plan())
        yield {
            "finished": (bases["finished"], _results(bases["finished"].plan(), STAGES)),
            "unfinished": (bases["unfinished"], _results(whole.plan(), STAGES[:2])),
        }


def _finish(plan: Plan) -> None:
    write_run_manifest(plan)
    Sequence(LocalBackend(plan)).run(retry_failed=True, stop_on_interrupt=True)


def _interrupt(plan: Plan) -> None:
    """Kill `run` in the middle of training, after its second checkpoint."""
    write_run_manifest(plan)
    script = (
        "import sys; from tests.builders import TinyRun; from pathlib import Path;"
        " from tests.history.corruption_trials import _finish;"
        " f = Path(sys.argv[1]); _finish(TinyRun(f, str(f / 'artifacts'), f / 'run.yaml').plan())"
    )
    folder = str(Path(plan.artifacts).parent)
    process = subprocess.Popen([sys.executable, "-c", script, folder], start_new_session=True)
    prefix = Path(plan.artifacts, "training_runs", plan.run_id, "train")
    while not (prefix / "resume/checkpoints/200/manifest.json").exists():
        time.sleep(0.005)
        if process.poll() is not None:
            sys.exit("the run has ended before it could be killed")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # The stage sees that its runner is gone, saves a checkpoint, and ends.
    while (pid := _holder(prefix / "lock")) is not None:
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    if (prefix / "record.json").exists():
        sys.exit("training has ended before it could be killed")


def _holder(lock: Path) -> int | None:
    """Return a process that has the lock file of a stage open."""
    for folder in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if folder.resolve() == lock.resolve() and int(folder.parts[2]) != os.getpid():
                return int(folder.parts[2])
    return None


def _finish_training(plan: Plan) -> tuple[int, str]:
    """Run the train stage in this process, where JAX is warm; returns exit code and output."""
    output = io.StringIO()
    stage = next(each for each in plan.stages if each.stage == "train")
    url = f"{plan.artifacts}/training_runs/{plan.run_id}/train/spec.json"
    files.write(url, dump_stage_spec(stage))
    handler = logging.StreamHandler(output)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stderr(output):
            code = run_stage("train", url)
    finally:
        logging.getLogger().removeHandler(handler)
    return code, output.getvalue()


def _copy(run: TinyRun, target: Path) -> TinyRun:
    shutil.copytree(run.folder, target, symlinks=True)
    return TinyRun(target, str(target / "artifacts"), target / "run.yaml").change(
        execution__artifacts=str(target / "artifacts"), eval__eval_set=str(target / "eval.jsonl")
    )


def _results(plan: Plan, stages: tuple[str, ...]) -> dict[str, object]:
    """Return what a run has computed: digests of outputs, counts and results, without timings."""
    found: dict[str, object] = {}
    for stage in stages:
        record = records.find(plan.artifacts, plan.run_id, stage)
        found[stage] = None if record is None else _result(record)
    return found


def _result(record: Record) -> object:
    counts = {k: v for k, v in record.counts.items() if k != "resumed_from_step"}
    return json.loads(json.dumps([record.content(), counts, record.results], sort_keys=True))


def _trials(
    name: str, base: TinyRun, reference: dict[str, object], trials: int, seed: int
) -> Tally:
    tally, draw = Tally(), random.Random(seed)
    for number in range(trials):
        target = base.folder.parent / f"{name}-{number}"
        run = _copy(base, target)
        plan = run.plan()
        known = verify_run(plan.artifacts, plan.run_id)
        described = {path for path in _files(plan) if path not in known.unchecked}
        kind, path = KINDS[number % len(KINDS)], draw.choice(sorted(_files(plan)))
        damaged = corrupt(Path(plan.artifacts), path, kind, draw, sorted(_files(plan)))
        problems = verify_run(plan.artifacts, plan.run_id).problems
        # If a manifest is swapped with a file that it describes, only the manifest can be named.
        is_named = not damaged.isdisjoint(each.path for each in problems)
        what = "named" if is_named else "NOT NAMED" if damaged & described else "no result"
        tally.named[what] += 1
        outcome = _outcome(name, run, reference, damaged)
        tally.outcomes[outcome] += 1
        if "NOT" in what or outcome.isupper():
            tally.failures.append(f"{kind} {sorted(damaged)}: {what}, {outcome}")
        shutil.rmtree(target)
    return tally


def _files(plan: Plan) -> set[str]:
    """Return the files of a run, of its dataset, of its tokens and of the cache."""
    root = Path(plan.artifacts)
    found = (path for path in root.rglob("*") if path.is_file() and "jax_cache" not in path.parts)
    return {str(path.relative_to(root)) for path in found}


def _outcome(name: str, run: TinyRun, reference: dict[str, object], damaged: set[str]) -> str:
    try:
        plan = run.plan()
        if name == "finished":
            _finish(plan)
            found = _results(plan, STAGES)
        else:
            code, output = _finish_training(plan)
            if code:
                return "refused" if _is_named(output, damaged) else "REFUSED WITHOUT A NAME"
            found = _results(plan, STAGES[:2])
    except TuneloopError as e:
        return "refused" if _is_named(str(e), damaged) else "REFUSED WITHOUT A NAME"
    except Exception:
        return "TRACEBACK"
    return "same result" if found == reference else "DIFFERENT RESULT"


def _is_named(text: str, damaged: set[str]) -> bool:
    # A damaged shard of tokens is named by its folder's manifest, and so on: names are paths.
    return any(path in text or path.rpartition("/")[2] in text for path in damaged)


def _report(name: str, tally: Tally) -> None:
    total = sum(tally.named.values())
    lines = [f"{name}: {failure}" for failure in tally.failures]
    lines.append(
        f"{name}: {total} corruptions; verify: {dict(tally.named)}; run: {dict(tally.outcomes)}"
    )
    figure = {"figure": f"corruptions of a run that was {name}", "value": len(tally.failures)}
    lines.append(json.dumps({**figure, "unit": f"failures of {total}"}))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
