"""Deliver events to one webhook, in order, by a thread of its own.

A delivered event leaves a mark with the run, so that neither a restart nor a second supervisor
sends it again. If two supervisors send it at the same moment, both send the same id.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Mapping

from tuneloop import jsonl
from tuneloop.artifacts import layout
from tuneloop.errors import TuneloopError
from tuneloop.runs.notifications.events import LAST_EVENTS, Event, NotifiedRun
from tuneloop.runs.notifications.formats import FORMATS
from tuneloop.runs.notifications.webhook import Webhook, webhook_url
from tuneloop.specs.integrations.notifications import WebhookSpec
from tuneloop.storage import files

LAST_ATTEMPT_SECONDS = 1.0
"""Seconds beyond the retry time that the last event's last attempt may take."""
Warn = Callable[[str], None]
"""Called with one sentence; may be called by another thread."""


class Delivery:
    """The queue of one webhook."""

    def __init__(
        self, place: str, spec: WebhookSpec, run: NotifiedRun, env: Mapping[str, str], warn: Warn
    ) -> None:
        """Start the thread.

        Args:
            place: the webhook's key in the spec, for warnings.
            spec: the webhook.
            run: the run of all events.
            env: environment variables of this process.
            warn: called when an event is not delivered.

        Raises:
            SpecError: the URL is missing or wrong.
            UsageError: the variable holds what cannot be a URL.
        """
        self._place, self._spec, self._run, self._warn = place, spec, run, warn
        self._stop = threading.Event()
        self._ended = threading.Event()
        """Set when the run has ended; earlier events are then no longer retried, so that the event
        that says how it ended has the whole retry time."""
        self._webhook = Webhook(webhook_url(spec, env), retry_seconds=spec.retry_seconds)
        self._queue: queue.Queue[Event | None] = queue.Queue()
        # A daemon: a webhook that neither answers nor hangs up must not keep the process.
        self._thread = threading.Thread(target=self._work, name=place, daemon=True)
        self._thread.start()

    @property
    def limit_seconds(self) -> float:
        """Maximum seconds to wait for the last event."""
        return self._spec.retry_seconds + LAST_ATTEMPT_SECONDS

    def send(self, event: Event) -> None:
        """Queue an event, unless the webhook does not want it; returns at once."""
        if event.type in self._spec.events:
            self._queue.put(event)
            if event.type in LAST_EVENTS:
                self._ended.set()

    def finish(self) -> None:
        """Accept no further events."""
        self._queue.put(None)

    def wait(self, deadline: float) -> None:
        """Wait until all events are delivered, or until a time of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._stop.set()
            self._ended.set()
            self._warn(
                f"{self._place}: the last events were not delivered in time; check the webhook, or"
                " raise retry_seconds"
            )

    def _work(self) -> None:
        while (event := self._queue.get()) is not None and not self._stop.is_set():
            try:
                self._deliver(event)
            except TuneloopError as e:
                self._say(event, str(e))
            except Exception as e:  # a webhook must not fail a run; its text may hold the URL
                self._say(event, f"{type(e).__name__} in tuneloop, which is a bug; report it")

    def _say(self, event: Event, why: str) -> None:
        if not self._stop.is_set():
            what = f"{event.type} of {event.data.stage}" if event.data.stage else event.type
            self._warn(f"{self._place}: {what} was not delivered: {why}")

    def _deliver(self, event: Event) -> None:
        mark = layout.notification_url(
            self._run.artifacts, self._run.run_id, f"{event.id}-{_mark_of(self._spec)}"
        )
        with contextlib.suppress(TuneloopError):
            if files.exists(mark):
                return
        chosen = FORMATS[self._spec.format]
        headers = {"Content-Type": chosen.content_type, "Idempotency-Key": event.id}
        stop = self._stop if event.type in LAST_EVENTS else self._ended
        self._webhook.post(chosen.body(event, self._run), headers, stop)
        # Without the right to write, each supervisor sends the event, with the same id.
        with contextlib.suppress(TuneloopError):
            files.publish(mark, jsonl.dump_line({"type": event.type, "stage": event.data.stage}))


def _mark_of(spec: WebhookSpec) -> str:
    """Return a short name of a webhook that reveals nothing and does not depend on its position."""
    place = spec.url or (spec.url_from.env if spec.url_from else "")
    return hashlib.sha256(f"{place}\n{spec.format}".encode()).hexdigest()[:8]
