"""Logs of a stage that the kubelets still have, for `tuneloop logs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.artifacts.stage_logs.attempt import Attempt
from tuneloop.artifacts.stage_logs.lines import Window
from tuneloop.artifacts.stage_logs.live import Piece
from tuneloop.k8s.api import ClusterApi
from tuneloop.k8s.logs.attempts import PodAttempt, pod_attempts, process_count
from tuneloop.k8s.logs.tail import read_new


class PodLogs:
    """The logs of one stage's pods."""

    def __init__(
        self,
        cluster: ClusterApi,
        workload: dict[str, Any],
        look: Callable[[], tuple[Verdict, list[dict[str, Any]]]],
    ) -> None:
        """Store the arguments; no request is sent yet.

        Args:
            cluster: the namespace of the pods.
            workload: the Job or JobSet as it was rendered.
            look: returns the verdict on the stage and its pods.
        """
        self._cluster, self._workload, self._look = cluster, workload, look
        self._sources: dict[Attempt, PodAttempt] = {}
        self._verdict: Verdict | None = None

    @property
    def processes(self) -> int:
        """Number of pods that run the stage together."""
        return process_count(self._workload)

    def attempts(self) -> list[Attempt]:
        """Ask the cluster, and return the attempts that a kubelet may have a log of."""
        self._verdict, pods = self._look()
        found = pod_attempts(pods, self._workload)
        self._sources = {source.attempt: source for source in found if source.has_started}
        return list(self._sources)

    def has_ended(self, attempt: Attempt) -> bool:
        """Return whether an attempt had ended when its pod was listed."""
        source = self._sources.get(attempt)
        return source is None or source.has_ended

    def read(self, attempt: Attempt, window: Window) -> Piece:
        """Read the lines that are not in the window, and add them to it."""
        source = self._sources.get(attempt)
        return Piece(is_gone=True) if source is None else read_new(self._cluster, source, window)

    def stage_has_ended(self) -> bool:
        """Return whether the last verdict is final."""
        return self._verdict is not None and self._verdict.is_final
