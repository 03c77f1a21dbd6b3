"""Cancel the processes of a run that another `tuneloop` process on this machine has started."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from tuneloop.artifacts.runs.cancellation import Cancellation, repeat_until_none_left
from tuneloop.runs.processes import Announcement, ProcessIdentity, find_announcements, withdraw

POLL_SECONDS = 0.2
"""Seconds between two looks at processes that were asked to stop."""


def cancel_local_run(
    artifacts: str,
    run_id: str,
    stage: str | None = None,
    *,
    wait_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Cancellation:
    """Ask the processes of a local run to stop, and wait until they have ended.

    The process that runs the stages gets SIGTERM. It stops the stage, which saves a checkpoint. If
    that process was killed before, the stage gets SIGTERM itself.

    Args:
        artifacts: artifacts URL of the run.
        run_id: id of the run.
        stage: the only stage to stop; None stops the run.
        wait_seconds: maximum seconds to wait.
        sleep: waits between two looks.
    """
    ending = _Ending(artifacts, run_id, stage)
    left = repeat_until_none_left(ending.advance, wait_seconds, POLL_SECONDS, sleep)
    return Cancellation(tuple(ending.ended), (), tuple([*left, *ending.elsewhere]))


class _Ending:
    """The end of the processes of one run on this machine."""

    def __init__(self, artifacts: str, run_id: str, stage: str | None) -> None:
        self._artifacts, self._run_id = artifacts, run_id
        self._stage = stage
        self._asked: set[ProcessIdentity] = set()
        self.ended: list[str] = []
        found = find_announcements(artifacts, run_id)
        self._here = [each for each in found if each.is_here and stage in (None, each.stage)]
        self.elsewhere = [
            f"process {each.runner.pid} on machine {each.host}: runs stage {each.stage}; cancel"
            f" there, or delete {each.name} in processes/ of the run if the machine is gone"
            for each in found
            if not each.is_here and stage in (None, each.stage)
        ]

    def advance(self) -> list[str]:
        """Ask the processes that still run to stop; describe them."""
        return [line for each in self._here for line in self._advance(each)]

    def _advance(self, each: Announcement) -> list[str]:
        alive = [p for p in (each.runner, each.process) if p.is_alive()]
        if not alive:
            withdraw(self._artifacts, self._run_id, each)
            return []
        # Without its runner, a stage is asked itself. One stage of a run is always asked itself.
        target = each.process if self._stage or each.runner not in alive else each.runner
        lines = []
        if target not in self._asked:
            self._asked.add(target)
            try:
                target.send(signal.SIGTERM)
            except PermissionError:
                return [
                    f"process {target.pid} of stage {each.stage}: belongs to another user; ask"
                    " that user to cancel the run"
                ]
            title = f"process {each.process.pid} of stage {each.stage}"
            if title not in self.ended:
                self.ended.append(title)
        for process in alive:
            what = "stage" if process == each.process else "runner of stage"
            lines.append(
                f"process {process.pid}, {what} {each.stage}: still runs after SIGTERM; wait and"
                f" cancel again, or end it with `kill -9 {process.pid}`"
            )
        return lines
