"""`python -m jobs STAGE --spec URL`: the argv of every stage, on a laptop and in a container.

Imports the chosen stage alone, so that export starts without JAX, and nothing before the command
line is understood, so that --help and a usage error come at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from typing import Any

STAGES = {
    "export": "tuneloop.stages.export",
    "train": "tuneloop.stages.train",
    "eval": "tuneloop.stages.evaluate",
    "import": "tuneloop.stages.import_traces",
}
"""Stage name -> module with `run(spec, stage)`."""

SUBMIT = "submit"
"""No stage: `python -m jobs submit RUN.yaml` submits all of them to a cluster; its options are
those of `tuneloop submit`."""

SHARED = ("export", "eval")
"""Stages that several processes can share; their modules have `merge(spec, stage, parts)`."""


def main(argv: list[str] | None = None) -> int:
    """Run one stage; the exit code is the one of docs/architecture.md's table."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [SUBMIT]:
        submit_spec: Callable[[list[str]], int] = importlib.import_module("jobs.submit").submit_spec
        return submit_spec(argv[1:])
    parser = argparse.ArgumentParser(prog="python -m jobs", description=__doc__)
    parser.add_argument("stage", choices=STAGES, help="what to run")
    parser.add_argument("--spec", required=True, metavar="URL", help="stage spec made by a plan")
    parser.add_argument("--index", type=int, default=0, metavar="I", help="this process, from 0")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="processes that share it")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.index < arguments.count:
        parser.error(f"--index {arguments.index}: expected 0 to --count - 1; correct one of them")
    if arguments.count > 1 and arguments.stage not in SHARED:
        parser.error(f"--count: only {' and '.join(SHARED)} share work; leave it out")

    from tuneloop.stages.contract import run_stage

    # The stage's module is imported under the contract: a missing package is a sentence too.
    def module() -> Any:
        return importlib.import_module(STAGES[arguments.stage])

    return run_stage(
        arguments.stage,
        arguments.spec,
        lambda spec, stage: module().run(spec, stage),
        index=arguments.index,
        count=arguments.count,
        merge=lambda spec, stage, parts: module().merge(spec, stage, parts),
    )


if __name__ == "__main__":
    sys.exit(main())
