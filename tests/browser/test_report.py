"""The HTML report of an evaluation in a real browser, from a file and without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser.conftest import HOSTILE
from tests.browser.test_pages import TOO_WIDE
from tests.evaluation.report.test_build import full, full_context
from tests.evaluation.samples import joined, samples_of
from tuneloop.artifacts.evaluation.delta_report import Context
from tuneloop.artifacts.evaluation.eval_samples import State
from tuneloop.evaluation.report.build import build_report
from tuneloop.evaluation.report.page.html import render_html

Open = Callable[..., Page]


def test_the_report_can_be_read_searched_and_filtered(tmp_path: Path, open_page: Open) -> None:
    odd = samples_of(
        {"base": ["wrong", "correct"], "tuned": ["truncated", "error"]},
        name="odd_v1",
        weight="informative",
        texts={"base": [HOSTILE, "x" * 3000], "tuned": ["كم عدد؟ \u202e" + HOSTILE, "# a\n" * 40]},
    )
    whole = joined(full(), odd)
    path = tmp_path / "delta_report.html"
    path.write_text(render_html(build_report(whole, full_context()), whole))

    page = open_page(path.as_uri())  # without scripts
    assert not page.locator("#filter").is_visible() and not page.locator("#wait").is_visible()
    page.locator("details.i summary").first.click()
    assert page.locator("details.i pre").first.is_visible()

    said: list[str] = []
    page = open_page("about:blank", scripts=True)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri())
    count = page.get_by_role("status")
    assert count.inner_text() == f"{len(whole.items)} items"
    assert page.locator("#wait, .block:empty").count() == 0
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "items"
    page.get_by_role("searchbox").fill("ONERROR=ALERT(1)> <SCRIPT>DOCUMENT.TITLE='TAKEN'")
    page.get_by_text(f"1 of {len(whole.items)} items").wait_for(timeout=5_000)
    page.get_by_label("Longest answer").select_option("at the token limit")
    assert page.locator("details.i:visible").count() == 1
    page.get_by_label("Outcome").select_option("0")
    page.get_by_text(f"0 of {len(whole.items)} items").wait_for(timeout=5_000)
    page.get_by_role("button", name="Show all").click()
    page.get_by_text(f"{len(whole.items)} items", exact=True).wait_for(timeout=5_000)
    assert (said, page.title()[:12]) == ([path.as_uri()], "Delta report")

    page = open_page(path.as_uri(), scripts=True, bypass_csp=True)
    page.evaluate("() => document.querySelectorAll('details').forEach(d => { d.open = true })")
    for scheme, width in (("light", 1280), ("dark", 390), ("dark", 1280), ("light", 320)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOO_WIDE) == []
        if (scheme, width) in (("light", 1280), ("dark", 390)):
            result = Axe().run(page)
            assert result.violations_count == 0, f"{scheme} {width}\n{result.generate_report()}"


def test_a_long_list_becomes_elements_where_it_is_looked_at(
    tmp_path: Path, open_page: Open
) -> None:
    states: dict[str, list[State]] = {"base": ["wrong"] * 1100, "tuned": ["correct"] * 1100}
    states["tuned"][:2], states["base"][0] = ["wrong", "wrong"], "correct"
    samples = samples_of(states)
    path = tmp_path / "delta_report.html"
    path.write_text(render_html(build_report(samples, Context()), samples))
    page = open_page(path.as_uri(), scripts=True)
    rows, last = page.locator("details.i"), page.locator("#i1099")
    assert rows.count() < 300 and last.count() == 0
    page.locator(".group:nth-of-type(2) .block").last.scroll_into_view_if_needed()
    last.wait_for()
    assert rows.count() < 700
    last.locator("summary").click()

    page.get_by_role("searchbox").fill("question 1099?")
    page.get_by_text("1 of 1100 items").wait_for(timeout=5_000)
    assert last.is_visible() and last.get_attribute("open") is not None  # as it was before
    page.get_by_role("button", name="Show all").click()
    page.get_by_text("1100 items", exact=True).wait_for(timeout=5_000)
    page.evaluate("() => { location.hash = '#i600' }")
    page.locator("#i600[open]").wait_for()
    assert page.locator("#i600 summary").bounding_box()["y"] < 900  # type: ignore[index]

    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert rows.count() == 1100
    assert page.locator("#i1[open]").count() == 1  # the regression
