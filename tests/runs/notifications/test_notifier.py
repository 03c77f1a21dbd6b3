"""Sequences on a cluster in memory that call real webhooks on loopback."""

from __future__ import annotations

import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.k8s.twin import Exit, Running, Twin, rendered, worker
from tests.runs.notifications.receiver import HANG, receiving
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.submission import Submission, load_submission, save_submission
from tuneloop.errors import DataError, StageFailed, StillRunning, Unavailable
from tuneloop.k8s.backend import KubernetesBackend
from tuneloop.runs.notifications.notifier import notifier_of_submission
from tuneloop.runs.results import StageResult
from tuneloop.runs.sequence import Callbacks, Sequence
from tuneloop.storage import files

ALL = [
    *("stage.finished export", "stage.finished train"),
    *("stage.finished eval", "stage.finished import", "run.finished -"),
]


def submitted(run: TinyRun, *webhooks: dict[str, Any]) -> Submission:
    run.change(execution__notifications=list(webhooks))
    return rendered(run)


def working() -> Twin:
    twin = Twin()
    twin.act = worker(twin)
    return twin


def supervise(
    submission: Submission, twin: Twin, callbacks: Callbacks | None = None, **how: Any
) -> list[str]:
    """Run a sequence as a supervisor does; returns its warnings."""
    warnings: list[str] = []
    backend = KubernetesBackend(submission, lambda: twin)
    with notifier_of_submission(submission, warnings.append) as notifier:
        watched = notifier.watch(callbacks or Callbacks())
        sequence = Sequence(backend, watched, twin.clock, twin.sleep)
        sequence.run(**{"retry_failed": True, "stop_on_interrupt": True, **how})
    return warnings


def test_each_stage_and_the_run_are_told_once_in_order(tiny_run: TinyRun) -> None:
    twin = working()
    with receiving() as receiver:
        submission = submitted(tiny_run, {"url": receiver.url})
        assert supervise(submission, twin) == []
        assert receiver.types() == ALL
        # Another supervisor, and `wait` on a finished run, tell nothing again.
        assert supervise(submission, twin, retry_failed=False) == []
        assert receiver.types() == ALL
    (first, *_) = receiver.requests
    assert first.headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert first.headers["Idempotency-Key"] == first.json["id"]


def test_a_supervisor_that_was_killed_leaves_nothing_untold(tiny_run: TinyRun) -> None:
    """Stages that end while nobody watches are told by the next supervisor."""
    twin = working()
    with receiving() as receiver:
        submission = submitted(tiny_run, {"url": receiver.url})
        Sequence(KubernetesBackend(submission, lambda: twin), Callbacks(), twin.clock, twin.sleep)
        backend = KubernetesBackend(submission, lambda: twin)
        Sequence(backend, Callbacks(), twin.clock, twin.sleep).run(
            retry_failed=True, stop_on_interrupt=True
        )
        assert receiver.requests == []
        assert supervise(submission, twin) == []
    assert receiver.types() == ALL


def test_two_supervisors_send_the_same_ids(tiny_run: TinyRun, tmp_path: Path) -> None:
    with receiving() as receiver:
        submission = submitted(tiny_run, {"url": receiver.url})
        supervise(submission, working())
        for mark in files.list_files(layout.run_prefix(submission.artifacts, submission.run_id)):
            if "/notifications/" in mark:
                Path(mark.removeprefix("file://")).unlink()
        supervise(submission, Twin())
    ids = [request.json["id"] for request in receiver.requests]
    assert len(ids) == 10
    assert ids[:5] == ids[5:]


def test_a_failed_run_is_told_with_its_verdict(tiny_run: TinyRun) -> None:
    twin = Twin()
    twin.act = lambda pod: Exit(65, "row 3 <b> is broken")
    with receiving() as receiver:
        submission = submitted(tiny_run, {"url": receiver.url})
        with pytest.raises(StageFailed):
            supervise(submission, twin)
        with pytest.raises(StageFailed):
            supervise(submission, twin, retry_failed=False)  # `wait` finds the same failure
        assert receiver.types() == ["run.failed export"]
        data = receiver.requests[0].json["data"]
        assert (data["state"], data["exit_code"]) == ("DataError", 12)
        assert "row 3 <b> is broken" in data["cause"]
        assert data["fix"]
        assert data["seconds"] >= 0
        assert files.exists(f"{data['links']['stage']}/verdict.json")
        with pytest.raises(StageFailed):
            supervise(submission, twin)  # `run` tries again, and the new attempt fails
        assert receiver.types() == ["run.failed export"] * 2
        first, second = (request.json["id"] for request in receiver.requests)
        assert first != second


def test_an_input_that_changed_between_stages_is_told(tiny_run: TinyRun) -> None:
    with receiving() as receiver:
        submission = submitted(tiny_run, {"url": receiver.url})

        def corrupt(result: StageResult) -> None:
            (file,) = result.record.outputs
            Path(submission.artifacts, file.path).write_bytes(b"RESULT\n")

        with pytest.raises(DataError):
            supervise(submission, working(), Callbacks(finished=corrupt))
    assert receiver.types() == ["stage.finished export", "run.failed -"]
    assert "result.txt" in receiver.requests[1].json["data"]["cause"]


def test_a_wait_that_ends_before_the_run_tells_nothing(tiny_run: TinyRun) -> None:
    twin = Twin()
    twin.act = lambda pod: Running()
    with receiving() as receiver:
        submission = submitted(tiny_run, {"url": receiver.url})
        with pytest.raises(StillRunning):
            supervise(submission, twin, for_seconds=60)
    assert receiver.requests == []


def test_each_webhook_gets_its_events_in_its_format(tiny_run: TinyRun) -> None:
    with receiving() as one, receiving() as two:
        submission = submitted(
            tiny_run,
            {"url": one.url, "events": ["run_finished", "run_failed"]},
            {"url": two.url, "format": "slack", "events": ["stage_finished"]},
        )
        supervise(submission, working())
    assert one.types() == ["run.finished -"]
    assert [list(request.json) for request in two.requests] == [["text"]] * 4
    assert two.requests[0].headers["Content-Type"].startswith("application/json")


def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.parametrize("trouble", ["closed", "hangs", "refuses", "no variable"])
def test_a_webhook_that_is_down_neither_fails_nor_delays_the_run(
    tiny_run: TinyRun, trouble: str
) -> None:
    with receiving(*[HANG if trouble == "hangs" else 403] * 50) as receiver, receiving() as other:
        url = f"http://127.0.0.1:{closed_port()}/" if trouble == "closed" else receiver.url
        webhook: dict[str, Any] = {"url": url, "retry_seconds": 1}
        if trouble == "no variable":
            webhook = {"url_from": {"env": "NOT_SET_URL"}}
        submission = submitted(tiny_run, webhook, {"url": other.url})
        since = time.monotonic()
        warnings = supervise(submission, working())
        assert time.monotonic() - since < 4.0
        assert other.types() == ALL  # each webhook has its own queue
    assert warnings
    assert all(line.startswith("execution.notifications.0: ") for line in warnings)
    assert not any("127.0.0.1" in line for line in warnings)


def test_events_that_cannot_be_delivered_take_no_time_from_the_last_one(tiny_run: TinyRun) -> None:
    url = f"http://127.0.0.1:{closed_port()}/"
    submission = submitted(tiny_run, {"url": url, "retry_seconds": 2})
    said = [line.partition(" was not delivered")[0] for line in supervise(submission, working())]
    # Without the rule, the first event alone would use up the time of all.
    assert said[-1] == "execution.notifications.0: run_finished"
    assert len(said) == len(ALL)


def test_an_interrupted_run_does_not_wait_for_its_webhooks(tiny_run: TinyRun) -> None:
    with receiving(*[HANG] * 50) as receiver:
        submission = submitted(tiny_run, {"url": receiver.url, "retry_seconds": 60})

        def interrupt(name: str, verdict: Any) -> None:
            if name == "train":
                raise KeyboardInterrupt

        since = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            supervise(submission, working(), Callbacks(waiting=interrupt))
        assert time.monotonic() - since < 3.0


def waited(submission: Submission, twin: Twin) -> list[str]:
    """Continue a stored run as `tuneloop wait RUN_ID` does; returns its warnings."""
    warnings: list[str] = []
    stored = load_submission(submission.artifacts, submission.run_id)
    backend = KubernetesBackend(stored, lambda: twin, is_from_storage=True)
    with notifier_of_submission(stored, warnings.append, backend.is_confirmed) as notifier:
        sequence = Sequence(backend, notifier.watch(Callbacks()), twin.clock, twin.sleep)
        sequence.run(retry_failed=False, stop_on_interrupt=False)
    return warnings


def test_wait_tells_the_webhooks_of_what_was_submitted(tiny_run: TinyRun) -> None:
    twin = working()
    with receiving() as receiver:
        submission = submitted(tiny_run, {"url": receiver.url})
        save_submission(submission)
        KubernetesBackend(submission, lambda: twin).submit("export", retry_failed=True)
        assert waited(submission, twin) == []
        assert receiver.types() == ALL


def test_wait_calls_no_address_that_a_writer_of_the_bucket_has_chosen(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages are done, so that nothing else is created or refused."""
    twin = working()
    submission = submitted(tiny_run)
    supervise(submission, twin)
    changed = submission.model_copy(deep=True)
    assert changed.run_manifest is not None
    with receiving() as elsewhere, receiving() as own:
        monkeypatch.setenv("OTHER_URL", elsewhere.url)
        monkeypatch.setenv("TUNELOOP_WEBHOOK_URL", f"{own.url}\n")
        changed.run_manifest.spec["execution"]["notifications"] = [
            {"url": elsewhere.url},
            {"url_from": {"env": "OTHER_URL"}},
            {"url_from": {}},
        ]
        save_submission(changed)
        (warning,) = waited(submission, twin)
    assert elsewhere.requests == []
    assert own.types() == ALL  # the caller's own variable names it
    assert re.match(
        r"execution\.notifications: 2 webhooks of .*submission\.json are not told, because"
        r" namespace .* stages can change this file; run `tuneloop submit`",
        warning,
    )
    assert elsewhere.url not in warning


def test_a_cluster_that_does_not_answer_is_a_warning(tiny_run: TinyRun) -> None:
    submission = submitted(tiny_run, {"url": "http://127.0.0.1:9/hook"})
    warnings: list[str] = []

    def refuse() -> bool:
        raise Unavailable("the API server does not answer; check it")

    with notifier_of_submission(submission, warnings.append, refuse):
        pass
    assert len(warnings) == 1
    assert "cannot be asked about it (the API server does not answer; check it)" in warnings[0]


@pytest.mark.parametrize("text", ["https://h.example/a b", "https://h.example/ü", "http://a\nb"])
def test_a_variable_that_holds_no_url_is_a_warning(
    text: str, tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_URL", text)
    submission = submitted(tiny_run, {"url_from": {"env": "HOOK_URL"}})
    warnings: list[str] = []
    with notifier_of_submission(submission, warnings.append):
        pass
    assert len(warnings) == 1
    assert "variable HOOK_URL: has " in warnings[0]
    assert text not in warnings[0]


def test_a_proxy_that_cannot_be_used_is_a_warning(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.example:1080")
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    submission = submitted(tiny_run, {"url": "https://hooks.example/x"})
    warnings: list[str] = []
    with notifier_of_submission(submission, warnings.append):
        pass
    assert len(warnings) == 1
    assert "ALL_PROXY: found a proxy that cannot be used" in warnings[0]


def test_a_run_without_webhooks_starts_no_thread(tiny_run: TinyRun) -> None:
    before = threading.active_count()
    submission = submitted(tiny_run)
    with notifier_of_submission(submission, lambda text: None):
        assert threading.active_count() == before


def test_webhooks_change_no_fingerprint(tiny_run: TinyRun) -> None:
    plain = submitted(tiny_run)
    told = submitted(tiny_run, {"url": "http://127.0.0.1:9/"})
    assert told.run_id == plain.run_id
    assert [each.fingerprint for each in told.stages] == [s.fingerprint for s in plain.stages]


def test_a_webhook_of_a_newer_version_is_one_warning(tiny_run: TinyRun) -> None:
    submission = submitted(tiny_run)
    manifest = submission.run_manifest
    assert manifest is not None
    manifest.spec["execution"]["notifications"] = [{"url": "http://127.0.0.1:9/s3cret", "new": 1}]
    (warning,) = supervise(submission, working())
    assert "execution.notifications: 1 keys are unknown" in warning
    assert "s3cret" not in warning
    old = submission.model_copy(update={"run_manifest": None})
    assert supervise(old, working()) == []
