"""Follow and archive the logs of a stage through the real API server and its Job controller."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest

from tests.cluster.test_outcomes import Case, case
from tuneloop.errors import StageFailed
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs.logs.follow import LogLine, StageLog

__all__ = ["case"]  # the fixture

LINES = 2_000
CODE = """
import os, sys, time
first = not os.path.exists({marker!r})
open({marker!r}, "a").close()
for number in range({lines}):
    print(f"{{'first' if first else 'second'}} {{number // 3}} ✓ 🙂")
    if number % 200 == 199:
        sys.stdout.flush()
        time.sleep(0.2)
print(" 10%\\r 20%\\r 30%", end="", flush=True)
sys.exit(75 if first else 65)
"""


def texts(lines: list[LogLine]) -> list[tuple[int, str]]:
    return [(each.number, each.line.text.decode()) for each in lines]


@pytest.mark.usefixtures("node")
def test_a_stage_is_followed_into_its_second_pod_and_archived(case: Case, tmp_path: Path) -> None:
    code = CODE.format(marker=str(tmp_path / "started"), lines=LINES)
    talking = case.change(code=code)
    at = (talking.submission.artifacts, talking.submission.run_id, "export")

    def supervise() -> None:
        with contextlib.suppress(StageFailed):
            talking.sequence().run(retry_failed=True, stop_on_interrupt=True)

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    reader = KubernetesBackend(talking.submission, lambda: talking.client)
    log = StageLog(*at, reader.live_logs("export"), sleep=lambda _: time.sleep(0.3))
    followed = [each for each in log.follow() if each is not None]
    supervisor.join(60)
    assert not supervisor.is_alive()
    assert texts(followed) == [
        line
        for attempt, name in ((1, "first"), (2, "second"))
        for line in (
            *((attempt, f"{name} {number // 3} ✓ 🙂") for number in range(LINES)),
            (attempt, " 10%\r 20%\r 30%"),
        )
    ]
    assert list(StageLog(*at).lines()) == followed
    assert log.notices() == StageLog(*at).notices() == []
