"""Run the members of a sweep, several at a time where the backend allows it.

A member that fails does not stop the others. All that is known of a member is in its run's records
and in its state file, so any process can continue a sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import Any

from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.artifacts.sweeps.store import (
    Member,
    MemberEnd,
    MemberState,
    SweepManifest,
    is_cancelled,
    read_state,
    save_state,
)
from tuneloop.errors import StillRunning, TuneloopError
from tuneloop.runs.backend import Backend
from tuneloop.runs.notifications.events import NotifiedRun
from tuneloop.runs.notifications.notifier import Notifier
from tuneloop.runs.results import StageResult
from tuneloop.runs.sequence import Callbacks, Sequence
from tuneloop.runs.sweep.curves import Curve, hopeless, read_curve

LOOK_SECONDS = 2.0
"""Seconds between two looks at losses and at a cancellation."""
_WAITS = ("Queued", "Unschedulable", "Stockout", "QuotaExceeded", "Provisioning")
"""States in which a stage holds no machines yet."""


def _tell_nobody(member: Member) -> Notifier:
    run = NotifiedRun(member.run_id, member.run_id, artifacts="", store_url="")
    return Notifier(run, (), warn=lambda text: None)


class _Stopped(Exception):
    """A member is stopped at a checkpoint."""

    def __init__(self, state: MemberEnd, cause: str) -> None:
        super().__init__(cause)
        self.state: MemberEnd = state
        self.cause = cause


@dataclass
class SweepRun:
    """The execution of one sweep in this process."""

    manifest: SweepManifest
    artifacts: str
    open_backend: Callable[[Member], Backend]
    """Returns the backend of a member, ready to submit."""
    callbacks: Callable[[Member], Callbacks] = lambda member: Callbacks()
    """Returns the callbacks that show a member."""
    notifier: Callable[[Member], Notifier] = _tell_nobody
    """Returns the notifier of a member after its backend was opened; to the webhooks, a member is a
    run like any other."""
    ended: Callable[[Member, MemberState], None] = lambda member, state: None
    """Called when a member has ended."""
    parallelism: int = 1
    retry_failed: bool = True
    """Whether to retry members that have failed before (`run`), or to leave them (`wait`)."""
    stop_on_interrupt: bool = True
    """Whether an interrupt stops the running stages."""
    sleep: Callable[[float], None] = time.sleep
    sequence: Callable[..., Sequence] = Sequence
    """Returns the sequence of a member; it may set how much of cached files is verified."""
    _stop: Event = field(default_factory=Event)
    _lock: Any = field(default_factory=Lock)
    _spent: dict[str, float] = field(default_factory=dict)
    _curves: dict[str, Curve] = field(default_factory=dict)

    def run(self, for_seconds: float | None = None) -> list[MemberState]:
        """Run every member that is not done, in order.

        Args:
            for_seconds: maximum seconds to wait; None waits until all have ended.

        Returns:
            The states of all members.

        Raises:
            StillRunning: `for_seconds` have passed, and the sweep continues.
            KeyboardInterrupt: raised again; running stages have stopped if that was asked for.
        """
        until = None if for_seconds is None else time.monotonic() + for_seconds
        self._settings = self.manifest.load_settings()
        for member in self.manifest.members:
            known = read_state(self.artifacts, self.manifest.sweep_id, member.run_id)
            self._spent[member.run_id] = known.chip_hours if known else 0.0
        with ThreadPoolExecutor(self.parallelism, thread_name_prefix="member") as pool:
            futures = [pool.submit(self._run_member, each) for each in self.manifest.members]
            try:
                self._await(futures, until)
            except BaseException:
                self._stop.set()
                for future in futures:
                    future.cancel()
                raise
        return [future.result() for future in futures]

    def _await(self, futures: Collection[Future[MemberState]], until: float | None) -> None:
        pending = set(futures)
        while pending:
            # A wait without a limit would not return for a signal.
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            if until is not None and pending and time.monotonic() > until:
                raise StillRunning(
                    f"sweep {self.manifest.sweep_id}: {len(pending)} of"
                    f" {len(self.manifest.members)} members have not ended; call `wait` again"
                )

    def _run_member(self, member: Member) -> MemberState:
        sweep_id = self.manifest.sweep_id
        known = read_state(self.artifacts, sweep_id, member.run_id)
        if known is not None and self._has_ended(known):
            self.ended(member, known)
            return known
        watch = _Watch(self, member)
        try:
            watch.check()
            state, cause = self._run_stages(member, watch)
        except _Stopped as e:
            state, cause = e.state, e.cause
        except TuneloopError as e:
            if self._stop.is_set() or is_cancelled(self.artifacts, sweep_id):
                raise KeyboardInterrupt from e
            state, cause = "failed", str(e)
        spent = self._spent[member.run_id]
        result = MemberState(run_id=member.run_id, state=state, cause=cause, chip_hours=spent)
        save_state(result, self.artifacts, sweep_id)
        self.ended(member, result)
        return result

    def _run_stages(self, member: Member, watch: _Watch) -> tuple[MemberEnd, str]:
        backend = self.open_backend(member)
        try:
            with self.notifier(member) as notifier:
                callbacks = notifier.watch(watch.callbacks())
                self.sequence(backend, callbacks, sleep=watch.sleep).run(
                    retry_failed=self.retry_failed, stop_on_interrupt=self.stop_on_interrupt
                )
        except _Stopped:
            if watch.stage is not None:
                backend.cancel_run(watch.stage)
            raise
        return "done", ""

    def _has_ended(self, state: MemberState) -> bool:
        """Return whether a member is left as it is when the sweep continues."""
        if state.state == "failed":
            return not self.retry_failed
        return state.state == "stopped early" and self._settings.early_stop is not None

    def spend(self, member: Member, chip_hours: float) -> None:
        """Add what a member has held."""
        with self._lock:
            self._spent[member.run_id] += chip_hours

    def check(self, member: Member, stage: str | None) -> None:
        """End a member if the process stops, the budget is used up, or its loss is too high."""
        if self._stop.is_set() or is_cancelled(self.artifacts, self.manifest.sweep_id):
            self._stop.set()
            raise KeyboardInterrupt
        budget = self._settings.budget_chip_hours
        if budget is not None and (spent := sum(self._spent.values())) >= budget:
            cause = f"{spent:.4g} chip-hours are used up, sweep.budget_chip_hours is {budget:g}"
            raise _Stopped("out of budget", f"{cause}; raise it and run the sweep again")
        rule = self._settings.early_stop
        if rule is not None and stage == "train":
            own = self._curves[member.run_id] = read_curve(self.artifacts, member.run_id)
            others = [self._curve(each) for each in self.manifest.members if each is not member]
            if cause := hopeless(rule, own, others):
                raise _Stopped("stopped early", cause)

    def _curve(self, member: Member) -> Curve:
        if member.run_id not in self._curves:
            # Of an earlier process. Members that run here replace their curve at each look.
            self._curves[member.run_id] = read_curve(self.artifacts, member.run_id)
        return self._curves[member.run_id]

    def forget_curve(self, member: Member) -> None:
        """Read the curve of a member again at the next look."""
        self._curves.pop(member.run_id, None)


class _Watch:
    """Watches one member between the polls of its sequence."""

    def __init__(self, run: SweepRun, member: Member) -> None:
        self._run, self._member = run, member
        self._looked_at = 0.0
        self._holds_machines = True
        self.stage: str | None = None

    def check(self) -> None:
        """Raise if the member must not go on."""
        self._looked_at = time.monotonic()
        self._run.check(self._member, self.stage)

    def sleep(self, seconds: float) -> None:
        """Wait between two polls, and count the chips that are held meanwhile."""
        since = time.monotonic()
        self._run.sleep(seconds)
        chips = self._member.chips.get(self.stage or "", 0)
        if self._holds_machines and chips:
            self._run.spend(self._member, chips * (time.monotonic() - since) / 3600)
        if time.monotonic() - self._looked_at >= LOOK_SECONDS or self._run._stop.is_set():
            self.check()

    def callbacks(self) -> Callbacks:
        """Return the callbacks of the sweep, which also tell this watch the stage and its state."""
        shown = self._run.callbacks(self._member)

        def started(stage: str) -> None:
            self.check()
            self.stage, self._holds_machines = stage, True
            shown.started(stage)

        def waiting(stage: str, verdict: Verdict) -> None:
            self._holds_machines = verdict.state not in _WAITS
            shown.waiting(stage, verdict)

        def finished(result: StageResult) -> None:
            self.stage = None
            self._run.forget_curve(self._member)
            shown.finished(result)

        return replace(shown, started=started, waiting=waiting, finished=finished)
