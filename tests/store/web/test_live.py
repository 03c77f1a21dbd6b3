"""The page of an unfinished run: its events, and what browsers without them get."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.builders import letter_trace, publish_dataset
from tests.finished_run import publish_run, torn
from tests.store.web.looking import HOSTILE, look, text_of
from tuneloop import jsonl
from tuneloop.history.stored import StoredRun
from tuneloop.runs import store_app
from tuneloop.store import shared_reads, streams
from tuneloop.store.dependencies import Service
from tuneloop.store.middleware.auth import new_token, parse_tokens
from tuneloop.store.web import live, stored_runs

RUN = "going-1"


@pytest.fixture
def training(artifacts: Path) -> str:
    """A run that trains: its first stage is done, and a heartbeat of train is there."""
    key = publish_dataset(str(artifacts), [letter_trace(0)])
    publish_run(str(artifacts), key, RUN, stages=["export"])
    beat(artifacts, step=12, loss=1.5)
    return RUN


def beat(artifacts: Path, **values: Any) -> None:
    now = datetime.now(UTC).isoformat()
    value = {"updated_at": now, "stage": "train", "total": 50, "rate_per_second": 2.0, **values}
    torn(str(artifacts), RUN, "train/progress.json", value)


def write_metrics(artifacts: Path, steps: int) -> None:
    rows = [
        {
            "step": step,
            "loss": 5.0 / step,
            "tokens_per_second": 1000.0 + step,
            "host_memory_bytes": 2_500_000_000,
            "device_memory_bytes": None,
            "validation_loss": 4.5 / step if step % 5 == 0 else None,
        }
        for step in range(1, steps + 1)
    ]
    torn(str(artifacts), RUN, "train/resume/metrics.jsonl", b"".join(map(jsonl.dump_line, rows)))


def publish_rest(artifacts: Path) -> None:
    publish_run(str(artifacts), "letters-v1", RUN)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "MAX_AGE_SECONDS", 0.02)
    monkeypatch.setattr(streams, "INTERVAL_SECONDS", 0.05)


def events_of(reply: httpx.Response) -> Iterator[dict[str, str]]:
    """Parse a stream as the standard says."""
    found: dict[str, str] = {}
    for line in reply.iter_lines():
        if not line:
            if "data" in found:
                yield found
            found = {}
            continue
        name, _, value = line.partition(": ")
        found[name] = f"{found[name]}\n{value}" if name == "data" and name in found else value


def test_a_page_while_training(http: TestClient, artifacts: Path, training: str) -> None:
    write_metrics(artifacts, 10)
    page = look(http, f"/runs/{RUN}")
    said = text_of(page)
    assert "step 12 of 50 2 per second 19.0 s left loss 1.5" in said
    assert "Loss by step: 5 at step 1, 1.5 at step 12; lowest 0.5 at step 10." in said
    assert "Validation loss: lowest 0.45 after step 10." in said
    assert "The steps after 10 come from heartbeats" in said
    assert "Speed 1,006 tokens/s" in said
    assert "1,010 505 0" in said  # the scale
    assert "Peak memory: 2.5 GB on the host." in said
    assert '<noscript><meta http-equiv="refresh" content="10; url=/runs/going-1?' in page
    assert text_of(look(http, f"/runs/{RUN}?refreshed=true")) == said


def test_a_finished_page_has_no_script(http: TestClient, artifacts: Path, run_id: str) -> None:
    page = look(http, f"/runs/{run_id}")
    assert "<script" not in page and "refresh" not in page


def test_events_bring_what_changed(
    store_url: str, artifacts: Path, training: str, quick: None
) -> None:
    with httpx.stream("GET", f"{store_url}/runs/{RUN}/events", timeout=10) as reply:
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.headers["x-accel-buffering"] == "no"
        assert reply.headers["cache-control"] == "no-store"
        found = events_of(reply)
        assert next(found) == {"retry": "3000", "event": "hello", "data": ""}
        first = next(found)
        assert first["event"] == "update" and "<b>12</b> of <b>50</b>" in first["data"]
        beat(artifacts, step=13, loss=1.4)
        second = next(found)
        assert "<b>13</b> of <b>50</b>" in second["data"]
        assert "Loss by step: 1.5 at step 12, 1.4 at step 13" in second["data"]
        assert second["id"] != first["id"]
        publish_rest(artifacts)
        names = [event["event"] for event in found]  # a read may fall between two records
        assert set(names[:-1]) == {"update"} and names[-1] == "finished"


def test_a_client_that_comes_back_gets_only_news(
    store_url: str, artifacts: Path, training: str, quick: None
) -> None:
    for number, name in ((13, "seen"), (14, "Last-Event-ID")):
        version = httpx.get(f"{store_url}/runs/{RUN}/live").headers["x-run-version"]
        given: dict[str, Any] = {"params" if name == "seen" else "headers": {name: version}}
        url = f"{store_url}/runs/{RUN}/events"
        with httpx.stream("GET", url, timeout=10, **given) as reply:
            found = events_of(reply)
            assert next(found)["event"] == "hello"
            threading.Timer(0.3, beat, [artifacts], {"step": number, "loss": 1.0}).start()
            assert f"<b>{number}</b> of" in next(found)["data"]


def test_quiet_streams_stay_open(
    store_url: str, training: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", 0.2)
    with httpx.stream("GET", f"{store_url}/runs/{RUN}/events", timeout=10) as reply:
        assert next(line for line in reply.iter_lines() if line.startswith(":")) == ": keep-alive"


def test_viewers_share_reads_and_leave_no_trace(
    app: FastAPI,
    store_url: str,
    training: str,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_reads, "MAX_AGE_SECONDS", 0.5)
    reads: list[str] = []
    find_run = stored_runs.find_run

    def counted(service: Service, run_id: str, *, verify: bool = False) -> StoredRun | None:
        reads.append(run_id)
        return find_run(service, run_id, verify=verify)

    monkeypatch.setattr(stored_runs, "find_run", counted)
    service = app.state.service
    with httpx.Client(limits=httpx.Limits(max_connections=None), timeout=20) as client:
        opened = [
            client.send(client.build_request("GET", f"{store_url}/runs/{RUN}/events"), stream=True)
            for _ in range(40)
        ]
        start, before = time.monotonic(), len(reads)
        time.sleep(2)
        assert service.streams.count == 40
        assert len(reads) - before <= (time.monotonic() - start) / 0.5 + 2
        for reply in opened:
            reply.close()
    deadline = time.monotonic() + 5
    while service.streams.count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert service.streams.count == 0


def test_too_many_viewers_poll(http: TestClient, training: str, app: FastAPI) -> None:
    app.state.service.streams.maximum = 0
    refused = http.get(f"/runs/{RUN}/events")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    polled = http.get(f"/runs/{RUN}/live")
    assert polled.headers["x-run"] == "unfinished"
    assert "<b>12</b> of <b>50</b>" in polled.text


def test_a_store_that_stops_ends_its_streams(artifacts: Path, training: str) -> None:
    database = f"sqlite:///{artifacts / 'other.db'}"
    with store_app.running(database, str(artifacts)) as url:
        client = httpx.Client(timeout=20)
        reply = client.send(client.build_request("GET", f"{url}/runs/{RUN}/events"), stream=True)
        start = time.monotonic()
    assert time.monotonic() - start < 2 * streams.INTERVAL_SECONDS + 1
    reply.close()


@pytest.mark.parametrize("run_id", ["nowhere-1", "..", "%2e%2e", "a%2fb"])
def test_no_run_no_events(http: TestClient, artifacts: Path, run_id: str) -> None:
    assert http.get(f"/runs/{run_id}/events").status_code == 404
    assert http.get(f"/runs/{run_id}/live").status_code == 404


@pytest.mark.parametrize(
    "metrics",
    [
        b"",
        b"{",
        b"\xff\x00",
        b'{"step":1,"loss":"<b>"}\n',
        b"[]\n" * 5,
        b'{"step":1,"loss":1.0}\n{"st',
    ],
)
def test_broken_metrics_do_not_break_the_page(
    http: TestClient, artifacts: Path, training: str, metrics: bytes
) -> None:
    torn(str(artifacts), RUN, "train/resume/metrics.jsonl", metrics)
    page = look(http, f"/runs/{RUN}")
    assert "step 12 of 50" in text_of(page)
    assert str(artifacts) not in page


@pytest.mark.parametrize(
    "values",
    [
        {"step": 0, "total": 0},
        {"step": -5, "total": -1},
        {"step": 10**18, "total": 10**18},
        {"step": 12, "loss": float("nan"), "rate_per_second": float("inf")},
        {"step": 60, "total": 50, "loss": -1.0},
        {"stage": HOSTILE, "attempt": HOSTILE, "note": HOSTILE},
    ],
)
def test_odd_heartbeats(
    http: TestClient, artifacts: Path, training: str, values: dict[str, Any]
) -> None:
    beat(artifacts, **values)
    assert "train running" in text_of(look(http, f"/runs/{RUN}"))


def test_heartbeats_extend_the_curve_and_are_few(
    app: FastAPI,
    http: TestClient,
    artifacts: Path,
    training: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "MAX_NEWEST", 20)
    view = None
    for step in range(13, 100):
        beat(artifacts, step=step, loss=5.0 / step)
        view = live.view_run(app.state.service, RUN, view)
    assert view is not None
    newest = view.training.newest
    assert len(newest) <= live.MAX_NEWEST and newest[-1][0] == 99
    beat(artifacts, step=50, loss=0.5)  # a restart repeats steps
    view = live.view_run(app.state.service, RUN, view)
    assert [point[0] for point in view.training.newest][-1] == 50
    write_metrics(artifacts, 50)
    assert live.view_run(app.state.service, RUN, view).training.newest == ()


def test_lines_of_an_event_follow_the_standard() -> None:
    text = "a\r\nb\rc\nd\u2028e: f"
    assert streams.event("update", text, "7").decode() == (
        "event: update\ndata: a\ndata: b\ndata: c\ndata: d\u2028e: f\nid: 7\n\n"
    )


def test_events_and_files_need_the_token(artifacts: Path, training: str) -> None:
    token, line = new_token("reader", "read")
    database = f"sqlite:///{artifacts / 'guarded.db'}"
    with store_app.running(database, str(artifacts), parse_tokens(line, "tokens")) as url:
        run = f"{url}/runs/{RUN}"
        for path in ("events", "live", "files", "files/train/progress.json"):
            assert httpx.get(f"{run}/{path}").status_code == 401, path
        assert httpx.get(f"{url}/runs/compare").status_code == 401
        with httpx.stream("GET", f"{run}/events", auth=("anyone", token), timeout=10) as reply:
            assert [next(events_of(reply))["event"]] == ["hello"]
        reply = httpx.get(f"{run}/files/train/progress.json", auth=("anyone", token))
        assert reply.json()["step"] == 12
