"""Run rounds: one chain after the other, and in a chain one member after the other.

All that is known is in the records of the runs and in the files of the rounds, so rounds that were
killed continue where they were, on any machine, and end with the same bytes. A member that fails
ends its chain, but not the chains of the other seeds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tuneloop.artifacts.rounds import store
from tuneloop.artifacts.rounds.store import ChainEnd, RoundsManifest
from tuneloop.errors import DataError, StageFailed, TuneloopError, verb_exit_code_of
from tuneloop.runs.backend import Backend
from tuneloop.runs.notifications.events import NotifiedRun
from tuneloop.runs.notifications.notifier import Notifier
from tuneloop.runs.rounds.plan import RoundsPlan
from tuneloop.runs.rounds.walk import Member, Walk
from tuneloop.runs.sequence import Callbacks, Sequence

LOOK_SECONDS = 2.0
"""Seconds between two looks at a cancellation."""


def _tell_nobody(member: Member) -> Notifier:
    run_id = member.plan.run_id
    return Notifier(NotifiedRun(run_id, run_id, artifacts="", store_url=""), (), lambda text: None)


@dataclass
class RoundsRun:
    """The execution of rounds in this process."""

    plan: RoundsPlan
    callbacks: Callable[[Member], Callbacks] = lambda member: Callbacks()
    """Returns the callbacks that show a member; called when it starts."""
    ended: Callable[[int, ChainEnd], None] = lambda seed, end: None
    """Called with the seed of a chain that has ended."""
    open_backend: Callable[[Member], Backend] = lambda member: member.prepared.start()
    """Returns the backend of a member, with its run manifest written, ready to submit."""
    notifier: Callable[[Member], Notifier] = _tell_nobody
    """Returns the notifier of a member; to the webhooks, a member is a run like any other."""
    started: Callable[[], None] = lambda: None
    """Called once rounds.json is written, before the first member starts."""
    stop_on_interrupt: bool = True
    """Whether an interrupt stops the running stage, or leaves it to the next supervisor."""
    sleep: Callable[[float], None] = time.sleep
    sequence: Callable[..., Sequence] = Sequence
    """Returns the sequence of a member; it may set how much of cached files is verified."""
    _looked_at: float = field(default=0.0, init=False)

    def run(self) -> RoundsManifest:
        """Run every member that is not done; return rounds.json with all members.

        Raises:
            KeyboardInterrupt: the rounds were interrupted or cancelled.
        """
        plan = self.plan
        manifest, known = plan.manifest(), None
        with contextlib.suppress(DataError):  # a broken file is written anew
            known = store.find_rounds(plan.artifacts, plan.rounds_id)
        if known is not None and known.model_copy(update={"members": ()}) == manifest:
            manifest = known
        store.save_rounds(manifest, plan.artifacts)
        store.clear_cancelled(plan.artifacts, plan.rounds_id)
        self.started()
        for seed in plan.seeds:
            manifest, end = self._run_chain(seed, manifest)
            store.save_end(end, plan.artifacts, plan.rounds_id, seed)
            self.ended(seed, end)
        return manifest

    def _run_chain(self, seed: int, manifest: RoundsManifest) -> tuple[RoundsManifest, ChainEnd]:
        try:
            for member in Walk(self.plan, seed, may_write=True).members():
                if member.row not in manifest.members:
                    manifest = manifest.with_member(member.row)
                    store.save_rounds(manifest, self.plan.artifacts)
                self._run_member(member)
        except TuneloopError as e:
            if self._is_cancelled():
                raise KeyboardInterrupt from e
            return manifest, ChainEnd(state="failed", cause=str(e), exit_code=verb_exit_code_of(e))
        return manifest, ChainEnd(state="done")

    def _run_member(self, member: Member) -> None:
        self._check()
        backend, callbacks = self.open_backend(member), self.callbacks(member)
        with self.notifier(member) as notifier:
            self.sequence(backend, notifier.watch(callbacks), sleep=self._sleep).run(
                retry_failed=True, stop_on_interrupt=self.stop_on_interrupt
            )

    def _sleep(self, seconds: float) -> None:
        self.sleep(seconds)
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._check()

    def _check(self) -> None:
        self._looked_at = time.monotonic()
        if self._is_cancelled():
            raise KeyboardInterrupt

    def _is_cancelled(self) -> bool:
        return store.is_cancelled(self.plan.artifacts, self.plan.rounds_id)


def check_chains(manifest: RoundsManifest, artifacts: str) -> None:
    """Fail if a chain has failed.

    Raises:
        StageFailed: a chain has failed.
    """
    ends = {seed: store.read_end(artifacts, manifest.rounds_id, seed) for seed in manifest.seeds}
    failed = {seed: end for seed, end in ends.items() if end and end.state == "failed"}
    if failed:
        seed, end = next(iter(failed.items()))
        raise StageFailed(
            f"rounds {manifest.rounds_id}: {len(failed)} of {len(ends)} seeds have failed, the"
            f" first is {seed}: {end.cause}",
            stage="rounds",
            exit_code=end.exit_code or 20,
        )
