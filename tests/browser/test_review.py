"""A review in a real browser: with keys, and with forms alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.test_pages import Open
from tests.builders import letter_trace
from tuneloop.runs import store_app
from tuneloop.store.middleware.auth import new_token, parse_tokens
from tuneloop.traces.client import TraceClient

TOKEN, LINE = new_token("ada", "write")


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, TraceClient]]:
    """A store with tokens and five traces."""
    folder: Any = tmp_path_factory.mktemp("guarded")
    tokens = parse_tokens(LINE, "tokens")
    with (
        store_app.running(f"sqlite:///{folder / 's.db'}", str(folder / "a"), tokens) as url,
        TraceClient(url, token=TOKEN) as client,
    ):
        client.post_batch([letter_trace(number) for number in range(5)], "letters")
        yield url, client


def labels(client: TraceClient) -> list[tuple[str, Any, str]]:
    rows = client.send("GET", "/api/labels")["data"]
    return [(row["who"], row["value"], row["reason"]) for row in rows]


def heading(page: Page) -> str:
    return page.get_by_role("heading", level=1).inner_text()


def test_review_by_keys(guarded: tuple[str, TraceClient], open_page: Open) -> None:
    url, client = guarded
    password = {"username": "anyone", "password": TOKEN}
    page = open_page(f"{url}/review", scripts=True, http_credentials=password)
    page.get_by_role("button", name="Start").click()
    seen = [heading(page)]

    def press(key: str) -> None:
        with page.expect_navigation():
            page.keyboard.press(key)
        seen.append(heading(page))

    press("a")
    page.keyboard.press("e")
    page.keyboard.type("narr\nas")  # letters of a reason are no keys, nor is Enter a verdict
    page.keyboard.press("Escape")
    press("r")
    press("s")
    press("p")
    assert seen[4] == seen[2]
    press("n")
    page.keyboard.press("Control+a")
    page.get_by_label("Keys", exact=True).uncheck()
    page.keyboard.press("a")
    page.reload()
    assert not page.get_by_label("Keys", exact=True).is_checked()
    page.keyboard.press("r")
    page.get_by_label("Keys", exact=True).check()
    press("a")
    assert labels(client) == [
        ("ada", "accept", ""),
        ("ada", "reject", "narr\nas"),
        ("ada", "skip", ""),
        ("ada", "accept", ""),
    ]
    assert seen[0] != seen[1] != seen[2] != seen[3]


def test_review_by_forms_alone(guarded: tuple[str, TraceClient], open_page: Open) -> None:
    url, client = guarded
    page = open_page(
        f"{url}/traces", width=390, http_credentials={"username": "x", "password": TOKEN}
    )
    page.get_by_role("link", name="Review").click()
    page.get_by_role("button", name="Start").click()
    assert not page.get_by_label("Keys", exact=True).is_visible()
    page.get_by_label("Reason").fill("لأن\nso")
    page.get_by_role("button", name="Reject").click()
    for _ in range(4):
        page.get_by_role("button", name="Accept").click()
    assert heading(page) == "No more traces"
    assert labels(client) == [("ada", "reject", "لأن\nso")] + 4 * [("ada", "accept", "")]


def test_another_site_cannot_submit_the_form(
    guarded: tuple[str, TraceClient], open_page: Open
) -> None:
    url, client = guarded
    (listed,) = client.iter_traces(limit=1)
    fields = {"value": "accept", "queue": "all", "label": "review"}
    inputs = "".join(f"<input name={name} value={value}>" for name, value in fields.items())
    form = f"<form action={url}/review/{listed['id']} method=post>{inputs}<button>Win</button>"
    password = {"username": "anyone", "password": TOKEN}
    page = open_page(f"data:text/html,{form}", http_credentials=password)
    with page.expect_navigation():
        page.get_by_role("button").click()
    # The password that the browser adds by itself counts only for forms of this store.
    assert "Unknown or missing token" in page.locator("main").inner_text()
    assert labels(client) == []
