"""The page of `tuneloop compare -o` in a real browser."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser.conftest import HOSTILE
from tests.browser.test_pages import TOO_WIDE
from tests.evaluation.samples import samples_of
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, State
from tuneloop.runs.reports.compare import compare_samples
from tuneloop.runs.reports.compare_page import render_page

Open = Callable[..., Page]


def runs() -> dict[str, EvalSamples]:
    def answered(right: int, wrong: State = "wrong") -> EvalSamples:
        states: list[State] = ["correct" if n < right else wrong for n in range(40)]
        texts = [f"Answer: {n}" if n < right else HOSTILE + "x" * 300 for n in range(40)]
        return samples_of(
            {"base": ["wrong"] * 40, "tuned": states}, texts={"base": texts, "tuned": texts}
        )

    return {
        "letters-7c1aa298": answered(12),
        "letters-longer-training-00c0ffee": answered(31, "truncated"),
        "letters-lora-5eed5eed": answered(11),
    }


def test_the_comparison_is_readable_at_every_width_and_without_scripts(
    tmp_path: Path, open_page: Open
) -> None:
    samples = runs()
    path = tmp_path / "compare.html"
    path.write_text(render_page(compare_samples(samples), samples))
    said: list[str] = []
    page = open_page("about:blank", scripts=True)
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri())
    assert said == [path.as_uri()]
    assert (
        page.title() == "Comparison of 3 runs with letters-7c1aa298"
        and page.locator("details.i").count() == 20
    )
    page.locator("details.i summary").first.click()
    assert page.locator("details.i pre").first.is_visible()
    page = open_page(path.as_uri(), scripts=True, bypass_csp=True)
    page.evaluate(
        "() => document.querySelectorAll('details').forEach((d, n) => { d.open = n < 2 })"
    )
    for scheme, width in (("light", 1280), ("dark", 390), ("dark", 1280), ("light", 390)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(TOO_WIDE) == []
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        if folder := os.environ.get("SHOTS"):
            page.screenshot(path=f"{folder}/compare-{scheme}-{width}.png", full_page=True)
