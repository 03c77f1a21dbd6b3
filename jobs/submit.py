"""`python -m jobs submit RUN.yaml [OPTIONS]`: check a run on the cluster, then submit it detached.

CI runs this on a merge: `tuneloop check --server`, then `tuneloop submit --detach`, with the
options of both. The Job that the second one creates runs
`python -m jobs.submit --submission FILE`, the other half of this module: it writes the run manifest
if nobody has, and runs the sequence of stages inside the cluster. `kubectl apply` of a folder of
`tuneloop render` creates the same Job. If it is killed and started again, it continues. The Job
owns every object that it creates, so deleting the Job ends the run.
"""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys

from tuneloop.artifacts.submission import Submission, read_submission
from tuneloop.errors import EXIT_OK, InputMissing, Transient, TuneloopError
from tuneloop.k8s.backend import KubernetesBackend, connect
from tuneloop.runs.notifications.notifier import notifier_of_submission
from tuneloop.runs.sequence import Callbacks, Sequence
from tuneloop.specs.target import Target
from tuneloop.stages.failures import report_failure

log = logging.getLogger("tuneloop.submit")

EXIT_SIGNAL = 128
"""A shell's exit code of a process that a signal has ended, less the signal's number."""


def submit_spec(arguments: list[str]) -> int:
    """Check a run spec and submit it; the exit code is that of the first verb that fails."""
    for verb in (["check", "--server"], ["submit", "--detach"]):
        # As processes: this module has to start in the cluster without all that verbs import.
        done = subprocess.run([sys.executable, "-m", "tuneloop.cli", *verb, *arguments])
        if done.returncode:
            return done.returncode if done.returncode > 0 else EXIT_SIGNAL - done.returncode
    return EXIT_OK


def main(argv: list[str] | None = None) -> int:
    """Run the sequence; the exit code is a verdict's, or 75 to be started again."""
    parser = argparse.ArgumentParser(prog="python -m jobs.submit", description=__doc__)
    parser.add_argument(
        "--submission", required=True, metavar="FILE", help="submission.json of the run"
    )
    parser.add_argument("--poll-seconds", type=float, default=5.0, help="between two looks")
    arguments = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(_load(arguments.submission), arguments.poll_seconds)
    except TuneloopError as e:
        return report_failure(e)
    except KeyboardInterrupt:
        return report_failure(Transient("submitter: stopped by a signal; its Job starts it again"))
    return EXIT_OK


def _load(url: str) -> Submission:
    try:
        return read_submission(url)
    except FileNotFoundError as e:
        raise InputMissing(
            f"{url}: missing, expected the key of the ConfigMap that the Job mounts; apply the"
            " rendered folder or submit the run again"
        ) from e


def _run(submission: Submission, poll_seconds: float) -> None:
    target = Target(announce=lambda line: log.info("%s", line))
    backend = KubernetesBackend(
        submission, lambda: connect(submission.namespace, target), poll_seconds=poll_seconds
    )
    backend.own_stages()
    submission.publish()
    said: set[str] = set()

    def say_once(line: str) -> None:
        if line not in said:
            said.add(line)
            log.info("%s", line)

    callbacks = Callbacks(
        started=lambda name: log.info("%s: creating", name),
        waiting=lambda name, verdict: say_once(f"{name}: {verdict.state}: {verdict.cause}"),
        finished=lambda result: log.info("%s: %s", result.name, result.state),
    )
    # A restart of this pod must not take a failure for something to try again, nor stop the stage.
    with notifier_of_submission(submission, log.warning) as notifier:
        sequence = Sequence(backend, notifier.watch(callbacks))
        sequence.run(retry_failed=False, stop_on_interrupt=False)


if __name__ == "__main__":
    sys.exit(main())
