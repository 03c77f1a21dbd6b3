"""`python -m jobs STAGE --spec URL`: the argv of every stage, on a laptop and in a container.

Imports the chosen stage alone, so that export starts without JAX.
"""

from __future__ import annotations

import argparse
import sys

from tuneloop.stages.table import STAGES, names_in

SUBMIT = "submit"
"""Not a stage: `python -m jobs submit RUN.yaml` checks a run and submits all of its stages."""


def main(argv: list[str] | None = None) -> int:
    """Run one stage; the exit code is one of the table in docs/explanation/architecture.md."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [SUBMIT]:
        from jobs.submit import submit_spec

        return submit_spec(argv[1:])
    parser = argparse.ArgumentParser(prog="python -m jobs", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES], help="stage to run")
    parser.add_argument("--spec", required=True, metavar="URL", help="stage spec made by a plan")
    parser.add_argument("--index", type=int, default=0, metavar="I", help="this process, from 0")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="processes that share it")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.index < arguments.count:
        parser.error(f"--index {arguments.index}: expected 0 to --count - 1; correct one of them")
    if arguments.count > 1 and arguments.stage not in names_in("shared"):
        parser.error(f"--count: only {', '.join(names_in('shared'))} share work; remove it")

    from tuneloop.stages.lifecycle.contract import run_stage

    return run_stage(
        arguments.stage,
        arguments.spec,
        shard_index=arguments.index,
        shard_count=arguments.count,
    )


if __name__ == "__main__":
    sys.exit(main())
