"""`python -m jobs submit RUN.yaml [OPTIONS]`: check a run on the cluster, then submit it detached.

CI runs this on a merge: `tuneloop check --server`, then `tuneloop submit --detach`, with the
options of both. The Job that the second one creates runs
`python -m jobs.submit --submission FILE`, the other half of this module: it writes the run manifest
if nobody has, and runs the sequence of stages inside the cluster. With `--sweep FILE`, it runs all
members of a sweep. `kubectl apply` of a folder of `tuneloop render` creates the same Job. If it is
killed and started again, it continues. The Job owns every object that it creates, so deleting the
Job ends the run.
"""

from __future__ import annotations

import argparse
import functools
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

from tuneloop.artifacts.runs.submission import (
    Submission,
    load_submission,
    read_submission,
    submission_url,
)
from tuneloop.artifacts.stage_logs.redaction import RedactingFormatter
from tuneloop.artifacts.sweeps.store import Member, is_cancelled
from tuneloop.artifacts.sweeps.submission import SweepSubmission, read_sweep_submission
from tuneloop.errors import EXIT_OK, DataError, InputMissing, StageFailed, Transient, TuneloopError
from tuneloop.k8s.backend import KubernetesBackend, connect
from tuneloop.k8s.submitters import owner_of
from tuneloop.runs.notifications.notifier import notifier_of_submission
from tuneloop.runs.sequence import Callbacks, Sequence
from tuneloop.runs.sweep.execute import SweepRun
from tuneloop.runs.sweep.report import check_members, write_report
from tuneloop.specs.target import Target
from tuneloop.stages.lifecycle.failures import report_failure

log = logging.getLogger("tuneloop.submit")

T = TypeVar("T")

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
    work = parser.add_mutually_exclusive_group(required=True)
    work.add_argument("--submission", metavar="FILE", help="submission.json of the run")
    work.add_argument("--sweep", metavar="FILE", help="sweep.json.xz of the sweep")
    parser.add_argument("--poll-seconds", type=float, default=5.0, help="between two looks")
    arguments = parser.parse_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.sweep:
            _run_sweep(_load(read_sweep_submission, arguments.sweep), arguments.poll_seconds)
        else:
            _run(_load(read_submission, arguments.submission), arguments.poll_seconds)
    except TuneloopError as e:
        return report_failure(e)
    except KeyboardInterrupt:
        return report_failure(Transient("submitter: stopped by a signal; its Job starts it again"))
    return EXIT_OK


def _load(read: Callable[[str], T], url: str) -> T:
    try:
        return read(url)
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


def _run_sweep(submission: SweepSubmission, poll_seconds: float) -> None:
    manifest, artifacts = submission.manifest, submission.artifacts
    namespace = submission.sweep.namespace
    target = Target(announce=functools.cache(lambda line: log.info("%s", line)))
    job = submission.sweep.submitter_job
    owner = owner_of(connect(namespace, target), job)
    submission.publish(owner["uid"])
    # Stages can change what is stored; the ConfigMap of this pod tells what was submitted.
    digests = {each.run_id: each.digest for each in submission.members}
    del submission  # the members take memory, and each is read again when it runs
    opened: dict[str, Submission] = {}

    def open_backend(member: Member) -> KubernetesBackend:
        stored = load_submission(artifacts, member.run_id)
        if stored.digest != digests.get(member.run_id):
            raise DataError(
                f"{submission_url(artifacts, member.run_id)}: is not what was submitted with this"
                " sweep, expected the file unchanged; submit the sweep again"
            )
        opened[member.run_id] = stored
        return KubernetesBackend(
            stored,
            # Members run in threads, and a client belongs to one thread.
            lambda: connect(namespace, target),
            poll_seconds=poll_seconds,
            owner=owner,
        )

    def callbacks(member: Member) -> Callbacks:
        return Callbacks(
            started=lambda name: log.info("member %d: %s: creating", member.number, name),
            finished=lambda r: log.info("member %d: %s: %s", member.number, r.name, r.state),
        )

    execution = SweepRun(
        manifest,
        artifacts,
        open_backend,
        callbacks=callbacks,
        notifier=lambda member: notifier_of_submission(opened.pop(member.run_id), log.warning),
        ended=lambda member, state: log.info(
            "member %d: %s %s", member.number, state.state, state.cause
        ),
        parallelism=manifest.load_settings().parallelism,
        retry_failed=False,
        stop_on_interrupt=False,
    )
    try:
        execution.run()
    except KeyboardInterrupt as e:
        if is_cancelled(artifacts, manifest.sweep_id):
            cause = f"sweep {manifest.sweep_id}: it was cancelled; submit it again to continue"
            raise StageFailed(cause, stage="sweep", exit_code=30) from e
        raise
    rows, url = write_report(manifest, artifacts)
    log.info("report %s", url)
    check_members(manifest.sweep_id, rows)


if __name__ == "__main__":
    sys.exit(main())
