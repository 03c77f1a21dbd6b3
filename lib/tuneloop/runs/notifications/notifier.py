"""Turn what a sequence of stages does into events, and deliver them to the run's webhooks."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pydantic import TypeAdapter, ValidationError

from tuneloop.artifacts.evaluation.verdict import State, Verdict
from tuneloop.artifacts.runs.submission import Submission, submission_url
from tuneloop.errors import (
    SpecError,
    StageFailed,
    TuneloopError,
    UsageError,
    verb_exit_code,
)
from tuneloop.runs.notifications.events import (
    Event,
    NotifiedRun,
    run_failed,
    run_finished,
    stage_finished,
)
from tuneloop.runs.results import StageResult
from tuneloop.runs.sequence import Callbacks
from tuneloop.settings.environment import variable
from tuneloop.specs.integrations.notifications import WebhookSpec
from tuneloop.specs.sampling import AnyRunSpec

if TYPE_CHECKING:
    from tuneloop.runs.notifications.delivery import Delivery, Warn

INTERRUPTED_SECONDS = 1.0
"""Seconds to wait for webhooks when a person or a signal stops the supervisor."""
_WEBHOOKS = TypeAdapter(tuple[WebhookSpec, ...])
_FINAL: dict[int, State] = {
    65: "DataError",
    66: "DataError",
    78: "ConfigError",
    23: "QuotaExceeded",
}
"""Exit codes of errors between stages that end a run -> state. After any other error, such as a
lost connection, the run may continue without this supervisor."""


class Notifier:
    """Watches one sequence; use it as a context around `Sequence.run`."""

    def __init__(
        self,
        run: NotifiedRun,
        webhooks: Sequence[WebhookSpec],
        warn: Warn,
        *,
        env: Mapping[str, str] = os.environ,
    ) -> None:
        """Start a thread for each webhook.

        Args:
            run: the run.
            webhooks: `execution.notifications` of its spec.
            warn: called with one sentence if a webhook is not set up, or does not take an event.
            env: environment variables with secret URLs.
        """
        self._run = run
        self._deliveries = _deliveries(run, webhooks, env, warn)
        self._results: list[StageResult] = []
        self._stage, self._since = "", time.monotonic()
        self._has_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send how the run has ended, and wait for the webhooks, at most their retry time."""
        if error is None and self._results:
            self._send(lambda: run_finished(self._run, self._results))
        elif isinstance(error, TuneloopError):
            self._failed_between_stages(error)
        is_interrupted = error is not None and not isinstance(error, Exception)
        now = time.monotonic()
        for each in self._deliveries:
            each.finish()
        for each in self._deliveries:
            each.wait(now + (INTERRUPTED_SECONDS if is_interrupted else each.limit_seconds))

    def watch(self, callbacks: Callbacks) -> Callbacks:
        """Return callbacks that also notify."""

        def started(name: str) -> None:
            self._stage, self._since = name, time.monotonic()
            callbacks.started(name)

        def finished(result: StageResult) -> None:
            self._results.append(result)
            self._stage, self._since = "", time.monotonic()
            self._send(lambda: stage_finished(self._run, result))
            callbacks.finished(result)

        def failed(name: str, verdict: Verdict, attempt: str) -> None:
            self._failed(name, verdict, attempt)
            callbacks.failed(name, verdict, attempt)

        return replace(callbacks, started=started, finished=finished, failed=failed)

    def _failed(self, stage: str, verdict: Verdict, attempt: str) -> None:
        self._has_failed = True
        seconds, now = time.monotonic() - self._since, datetime.now(UTC)
        self._send(lambda: run_failed(self._run, stage, verdict, attempt, seconds=seconds, now=now))

    def _failed_between_stages(self, error: TuneloopError) -> None:
        state = _FINAL.get(error.exit_code)
        if state is None or self._has_failed or isinstance(error, StageFailed):
            return
        verdict = Verdict(state, str(error), exit_code=verb_exit_code(error.exit_code))
        self._failed(self._stage, verdict, uuid.uuid4().hex)

    def _send(self, build: Callable[[], Event]) -> None:
        if self._deliveries:
            event = build()
            for each in self._deliveries:
                each.send(event)


def _deliveries(
    run: NotifiedRun, webhooks: Sequence[WebhookSpec], env: Mapping[str, str], warn: Warn
) -> Sequence[Delivery]:
    if not webhooks:
        return ()
    try:
        # httpx takes 70 ms to import, and it is no package of the smallest installation.
        from tuneloop.runs.notifications.delivery import Delivery
    except ModuleNotFoundError as e:
        warn(f"execution.notifications: package {e.name} is missing; install tuneloop[store]")
        return ()
    made = []
    for position, spec in enumerate(webhooks):
        place = f"execution.notifications.{position}"
        try:
            made.append(Delivery(place, spec, run, env, warn))
        except (SpecError, UsageError) as e:
            warn(f"{place}: {e}")
    return made


def _trusted(
    submission: Submission,
    webhooks: tuple[WebhookSpec, ...],
    is_confirmed: Callable[[], bool],
    warn: Warn,
) -> tuple[WebhookSpec, ...]:
    """Return the webhooks with addresses that stages cannot have chosen."""
    own = tuple(
        each for each in webhooks if each.url_from and each.url_from.env == variable("webhook_url")
    )
    if own == webhooks:
        return webhooks
    try:
        if is_confirmed():
            return webhooks
        problem = "has no object of this run that was created from it, expected one"
    except TuneloopError as e:  # a webhook must not fail a run
        problem = f"cannot be asked about it ({e})"
    warn(
        f"execution.notifications: {len(webhooks) - len(own)} webhooks of"
        f" {submission_url(submission.artifacts, submission.run_id)} are not told, because"
        f" namespace {submission.namespace} {problem}, and stages can change this file; run"
        " `tuneloop submit` with the spec again, which continues the run"
    )
    return own


def notifier_of_spec(run_id: str, spec: AnyRunSpec, warn: Warn) -> Notifier:
    """Return the notifier of a planned run.

    Args:
        run_id: id of the run.
        spec: the run spec, with absolute places.
        warn: called with one sentence if a webhook cannot be told.
    """
    execution = spec.execution
    run = NotifiedRun(run_id, spec.name, execution.artifacts, execution.store_url)
    return Notifier(run, execution.notifications, warn)


def notifier_of_submission(
    submission: Submission, warn: Warn, is_confirmed: Callable[[], bool] = lambda: True
) -> Notifier:
    """Return the notifier of a submitted run; it tells nobody if nobody is named.

    The submission is newer than the run manifest, which keeps the settings of the first planner.

    Args:
        submission: the submission of the run.
        warn: called with one sentence if a webhook cannot be told.
        is_confirmed: returns whether the submission is what somebody with rights on the cluster has
            submitted. Otherwise a stage could choose the addresses that this process calls, and
            only the webhook in the caller's own variable TUNELOOP_WEBHOOK_URL is told.
    """
    spec = submission.run_manifest.spec if submission.run_manifest else {}
    execution = spec.get("execution") or {}
    try:
        webhooks = _WEBHOOKS.validate_python(execution.get("notifications", ()))
    except ValidationError as e:
        # Without the value, which a newer tuneloop may treat as a secret.
        warn(f"execution.notifications: {e.error_count()} keys are unknown; use the same version")
        webhooks = ()
    webhooks = _trusted(submission, webhooks, is_confirmed, warn)
    run = NotifiedRun(
        submission.run_id,
        str(spec.get("name") or submission.run_id),
        submission.artifacts,
        str(execution.get("store_url") or ""),
    )
    return Notifier(run, webhooks, warn)
