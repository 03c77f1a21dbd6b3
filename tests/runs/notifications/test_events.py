"""What notifications say, and that CloudEvents and Slack receivers can read them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.runs.notifications.events import (
    CAUSE_CHARACTERS,
    Event,
    NotifiedRun,
    cloudevent,
    run_failed,
    run_finished,
    stage_finished,
)
from tuneloop.runs.notifications.formats import FORMATS, slack_message
from tuneloop.runs.results import StageResult

RUN = NotifiedRun("demo-1a2b3c4d", "demo", "gs://bucket/a b", "https://store.example/")
NOW = datetime(2026, 11, 28, 10, tzinfo=UTC)


class CloudEvent(BaseModel):
    """The context attributes of CloudEvents 1.0, with the rules of its JSON format."""

    model_config = ConfigDict(extra="forbid", strict=True)

    specversion: Literal["1.0"]
    id: str = Field(min_length=1)
    source: str = Field(pattern=r"^[A-Za-z0-9/:._~%-]+$")  # a URI reference
    type: str = Field(pattern=r"^dev\.tuneloop\.[a-z.]+$")
    subject: str | None = Field(default=None, min_length=1)
    # RFC 3339
    time: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")
    datacontenttype: Literal["application/json"]
    data: dict[str, Any]


def record(stage: str, *, made_by: str = RUN.run_id, **results: Any) -> Record:
    path = f"training_runs/{made_by}/{stage}/attempts/a/x"
    return Record(
        run_id=RUN.run_id,
        stage=stage,
        fingerprint="0" * 64,
        attempt="a",
        inputs={},
        outputs=(OutputFile(name="x", path=path, size_bytes=1, sha256="0"),),
        counts={},
        results=results,
        started_at="2026-11-28T09:00:00+00:00",
        seconds=90.25,
        provenance={},
    )


def result(stage: str, **how: Any) -> StageResult:
    return StageResult(stage, "done", 1.0, record(stage, **how))


def failed(cause: str = "no space", fix: str = "free some", stage: str = "train") -> Event:
    verdict = Verdict("Evicted", cause, fix, exit_code=20)
    return run_failed(RUN, stage, verdict, "uid-1", seconds=12.3456, now=NOW)


EVALUATED = result("eval", accuracy_base=0.1, accuracy_tuned=0.425)
EVENTS = {
    "stage": stage_finished(RUN, result("export")),
    "evaluated": stage_finished(RUN, EVALUATED),
    "reused": stage_finished(RUN, result("export", made_by="other-0")),
    "run": run_finished(RUN, [result("export", made_by="other-0"), EVALUATED, result("import")]),
    "failed": failed(),
    "between stages": failed(stage=""),
    "unicode": failed("\x00 «ü» 🟡 \ud800 </script> & <!channel>\r\n", ""),
}


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_is_a_cloudevent(name: str) -> None:
    body = FORMATS["cloudevents"].body(EVENTS[name], RUN)
    assert body.isascii()
    event = CloudEvent.model_validate_json(body)
    assert event.source == "/training_runs/demo-1a2b3c4d"
    assert event.id == EVENTS[name].id
    json.dumps(event.data).encode("utf-8", "strict")


def test_a_stage_says_its_duration_its_end_and_its_record() -> None:
    found = cloudevent(EVENTS["stage"], RUN)
    assert found["type"] == "dev.tuneloop.stage.finished"
    assert found["subject"] == "export"
    assert found["time"] == "2026-11-28T09:01:30.250+00:00"
    prefix = "gs://bucket/a b/training_runs/demo-1a2b3c4d"
    assert found["data"] == {
        "run_id": "demo-1a2b3c4d",
        "name": "demo",
        "stage": "export",
        "state": "Succeeded",
        "cause": "",
        "fix": "",
        "exit_code": 0,
        "reused": False,
        "seconds": 90.25,
        "accuracy": None,
        "links": {
            "artifacts": prefix,
            "page": "https://store.example/runs/demo-1a2b3c4d",
            "record": f"{prefix}/export/record.json",
        },
    }


def test_a_run_says_its_result_and_counts_only_its_own_stages() -> None:
    data = EVENTS["run"].data
    assert data.stage is None
    assert data.seconds == 180.5  # export came from another run
    assert data.accuracy is not None
    assert (data.accuracy.base, data.accuracy.tuned) == (0.1, 0.425)
    assert data.links["report"].endswith("/demo-1a2b3c4d/delta_report.md")


def test_a_reused_stage_says_so() -> None:
    assert EVENTS["reused"].data.reused
    assert "stage export reused" in slack_message(EVENTS["reused"], RUN)["text"]


def test_a_failure_says_verdict_and_waited_seconds() -> None:
    data = EVENTS["failed"].data
    assert (data.state, data.cause, data.fix) == ("Evicted", "no space", "free some")
    assert (data.exit_code, data.seconds) == (20, 12.346)
    assert data.links["stage"].endswith("/demo-1a2b3c4d/train")


def test_ids_are_those_of_the_event_whoever_sends_it() -> None:
    later = datetime(2027, 1, 1, tzinfo=UTC)
    verdict = Verdict("Evicted", "another supervisor's words", exit_code=20)
    again = run_failed(RUN, "train", verdict, "uid-1", seconds=1, now=later)
    assert again.id == failed().id
    other = run_failed(RUN, "train", verdict, "uid-2", seconds=1, now=later)
    assert other.id != failed().id
    assert stage_finished(RUN, result("export")).id == EVENTS["stage"].id
    assert len({event.id for event in EVENTS.values()}) == len(EVENTS) - 2  # two have two texts


def test_a_long_cause_is_cut() -> None:
    event = failed("x" * 100_000)
    assert len(event.data.cause) == CAUSE_CHARACTERS
    assert len(FORMATS["cloudevents"].body(failed("🟡" * 100_000), RUN)) < 65_536
    assert len(slack_message(event, RUN)["text"]) < 4000


def test_text_of_a_run_cannot_mention_or_link_in_slack() -> None:
    text = slack_message(failed("<!channel> & <http://evil|ok>", "a > b"), RUN)["text"]
    assert "&lt;!channel&gt; &amp; &lt;http://evil|ok&gt;" in text
    assert "*Fix:* a &gt; b" in text
    assert re.findall(r"<[^>]*>", text) == ["<https://store.example/runs/demo-1a2b3c4d|page>"]


def test_a_store_url_cannot_break_out_of_its_link() -> None:
    run = NotifiedRun("demo-1", "demo", "a", "http://h/x|y>&<!channel>")
    text = slack_message(run_finished(run, [result("import")]), run)["text"]
    assert "<http://h/x%7Cy%3E&amp;%3C!channel%3E/runs/demo-1|page>" in text


def test_the_message_of_a_run() -> None:
    text = slack_message(EVENTS["run"], RUN)["text"]
    assert text.splitlines()[:2] == [
        ":white_check_mark: *demo-1a2b3c4d* run finished in 3 min 00 s",
        "accuracy 10.0 % → 42.5 %",
    ]


@pytest.mark.parametrize("seconds", [0.0, -5.0, 1e300, float("inf"), float("nan")])
def test_a_record_with_broken_times_still_gives_an_event(seconds: float) -> None:
    broken = record("export").model_copy(update={"started_at": "yesterday", "seconds": seconds})
    event = stage_finished(RUN, StageResult("export", "cached", 0.0, broken))
    CloudEvent.model_validate_json(FORMATS["cloudevents"].body(event, RUN))
