"""The page of an unfinished run in a real browser: it follows the run without a reload."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.builders import letter_trace
from tests.finished_run import publish_run, torn
from tuneloop.runs import store_app
from tuneloop.traces.client import TraceClient

Open = Callable[..., Page]
RUN = "going-1"
MARK = "() => { document.body.dataset.mark = 'same' }"


@dataclass(frozen=True)
class Training:
    """A run that trains, and the store that shows it."""

    url: str
    artifacts: str

    def beat(self, step: int, **values: Any) -> None:
        now = datetime.now(UTC).isoformat()
        beat = {"updated_at": now, "step": step, "total": 50, "loss": 6.0 / step, **values}
        torn(self.artifacts, RUN, "train/progress.json", beat)


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    artifacts = str(tmp_path / "artifacts")
    with store_app.running(f"sqlite:///{tmp_path / 'store.db'}", artifacts) as url:
        with TraceClient(url) as client:
            client.post_batch([letter_trace(number) for number in range(104)], "letters")
            request = {"dataset_name": "letters", "dataset_version": "v1", "seed": 7}
            client.build_dataset(request)
        publish_run(artifacts, "letters-v1", RUN, stages=["export"])
        started = Training(f"{url}/runs/{RUN}", artifacts)
        started.beat(12)
        yield started


def faults_of(page: Page) -> list[str]:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


def follow(page: Page, training: Training) -> None:
    """Check that news appear while the page stays the same, and then the report."""
    page.evaluate(MARK)
    for step in (13, 14):
        training.beat(step)
        expect(page.locator("#live")).to_contain_text(f"step {step} of 50", timeout=15_000)
    expect(page.get_by_role("img")).to_have_attribute("aria-label", _ends_at(14))
    assert page.evaluate("() => document.body.dataset.mark") == "same"
    publish_run(training.artifacts, "letters-v1", RUN)
    expect(page.get_by_role("heading", name="Delta report")).to_be_visible(timeout=15_000)
    assert page.locator("script").count() == 0


def _ends_at(step: int) -> Any:
    return re.compile(f"at step {step}; lowest")


def test_news_arrive_without_a_reload(training: Training, open_page: Open) -> None:
    page = open_page("about:blank", scripts=True)
    said = faults_of(page)
    page.goto(training.url)
    expect(page.get_by_role("status")).to_have_text("Live: news appear by themselves.")
    follow(page, training)
    assert said == []


def test_a_browser_without_events_polls(training: Training, open_page: Open) -> None:
    page = open_page("about:blank", scripts=True)

    def block(route: Route) -> None:
        route.abort()

    page.route("**/events?*", block)
    page.goto(training.url)
    expect(page.get_by_role("status")).to_contain_text("every 5 seconds", timeout=15_000)
    follow(page, training)


def test_a_store_that_refuses_streams_is_polled(training: Training, open_page: Open) -> None:
    page = open_page("about:blank", scripts=True)
    page.route("**/events?*", lambda route: route.fulfill(status=503, body="busy"))
    page.goto(training.url)
    expect(page.get_by_role("status")).to_contain_text("every 5 seconds", timeout=15_000)


def test_without_scripts_the_page_reloads_itself(training: Training, open_page: Open) -> None:
    page = open_page(training.url)
    assert "reloads itself every 10 seconds" in page.get_by_role("status").inner_text()
    training.beat(13)
    expect(page.locator("#live")).to_contain_text("step 13 of 50", timeout=20_000)


def test_the_focus_stays_where_it_is(training: Training, open_page: Open) -> None:
    page = open_page(training.url, scripts=True)
    page.get_by_role("link", name="letters-v1").focus()
    training.beat(13)
    expect(page.locator("#live")).to_contain_text("step 13 of 50", timeout=15_000)
    focused = page.evaluate("() => document.activeElement.getAttribute('href')")
    assert focused == "/datasets/letters-v1"


def test_text_of_a_run_is_no_markup(training: Training, open_page: Open) -> None:
    page = open_page("about:blank", scripts=True)
    said = faults_of(page)
    page.goto(training.url)
    page.evaluate(MARK)
    verdict = {
        "state": "مشغول <b>x</b> 🟡",
        "cause": "<img src=x onerror=alert(1)> نفدت الذاكرة 👩🏽‍🚀",
        "fix": "</div><script>document.body.dataset.mark='taken'</script>",
        "evidence": [],
    }
    torn(training.artifacts, RUN, "train/verdict.json", verdict)
    training.beat(13, updated_at="2020-01-01T00:00:00Z")
    expect(page.locator("#live")).to_contain_text("<img src=x onerror=alert(1)>", timeout=15_000)
    assert page.locator("#live img, #live script, #live b >> text=x").count() == 0
    assert page.evaluate("() => document.body.dataset.mark") == "same"
    assert said == []
