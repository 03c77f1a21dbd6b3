"""`python -m jobs STAGE --spec URL`: the argv of every stage, on a laptop and in a container.

Imports the chosen stage alone, so that export starts without JAX.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from jobs.stage import run_stage

STAGES = {
    "export": "jobs.export",
    "train": "jobs.train_sft_tunix",
    "eval": "jobs.evaluate",
    "import": "jobs.import_traces",
}
"""Stage name -> module with `run(spec, stage)`."""


def main(argv: list[str] | None = None) -> int:
    """Run one stage; the exit code is the one of docs/architecture.md's table."""
    parser = argparse.ArgumentParser(prog="python -m jobs", description=__doc__)
    parser.add_argument("stage", choices=STAGES, help="what to run")
    parser.add_argument("--spec", required=True, metavar="URL", help="stage spec made by a plan")
    arguments = parser.parse_args(argv)
    return run_stage(
        arguments.stage,
        arguments.spec,
        lambda spec, stage: importlib.import_module(STAGES[arguments.stage]).run(spec, stage),
    )


if __name__ == "__main__":
    sys.exit(main())
