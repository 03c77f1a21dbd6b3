"""CPU seconds that the page of 10,000 items takes in Chromium to open, and to find words.

They are the seconds of the page's main thread, so other programs on the machine hardly change them.
The page opens when its list can be used; the words are searched for the first time. The rival holds
the same bytes as plain elements, and a script of a few lines hides the items without the words. The
limits are 2 s of wall time on an idle machine, and 30 MB.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from pathlib import Path

from figure import print_figure, sized
from playwright.sync_api import Browser, sync_playwright

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]
from tests.browser.chromium import MISSING, find_chromium  # noqa: E402 - needs the path above
from tests.evaluation.samples import samples_of  # noqa: E402 - needs the path above
from tuneloop.artifacts.evaluation.delta_report import Context  # noqa: E402 - needs the path above
from tuneloop.artifacts.evaluation.eval_samples import State  # noqa: E402 - needs the path above
from tuneloop.evaluation.report.build import build_report  # noqa: E402 - needs the path above
from tuneloop.evaluation.report.page.html import render_html  # noqa: E402 - needs the path above

ITEMS = sized(10_000, 120)
WORDS = 150
ROUNDS = sized(5, 1)
STATES: tuple[State, ...] = ("correct", "wrong", "no_answer", "truncated")
VOCABULARY = "we add the number of letters in “word” step 12 apple therefore x < 5 & y".split()
PLAIN_SCRIPT = """<script>
document.getElementById("filter").hidden = false;
const items = Array.from(document.querySelectorAll("details.i"));
document.getElementById("f-q").addEventListener("input", (event) => {
  let shown = 0;
  for (const item of items) {
    item.hidden = !item.textContent.toLowerCase().includes(event.target.value);
    if (!item.hidden) shown += 1;
  }
  document.getElementById("f-n").textContent = `${shown} of ${items.length} items`;
});
</script>"""
# By id: a search through all elements for a role or a text would count as the page's own work.
FOUND = "() => document.getElementById('f-n').textContent.startsWith('1 of ')"
IDLE = "() => new Promise((done) => requestIdleCallback(() => done()))"


def make_page() -> str:
    """Render the page of a report with texts of about a kilobyte, of which one half is common."""
    draw = random.Random(7)

    def text(words: int) -> str:
        return "".join(draw.choice(VOCABULARY) + draw.choice("         \n") for _ in range(words))

    starts = [text(WORDS // 2) for _ in range(ITEMS)]
    samples = samples_of(
        {name: draw.choices(STATES, k=ITEMS) for name in ("base", "tuned")},
        texts={name: [each + text(WORDS // 2) for each in starts] for name in ("base", "tuned")},
        categories=("sums", "letters", "dates"),
    )
    return render_html(build_report(samples, Context()), samples)


def plain(page: str) -> str:
    """Return the page with its items as elements, without its policy and its own script."""
    page = re.sub('</?noscript.*?>|<meta http-equiv="Content-S.*?>|<p id="wait".*?</p>', "", page)
    return page[: page.rindex("<script>")] + PLAIN_SCRIPT + "</body></html>"


def measure(browser: Browser, path: Path) -> tuple[float, float]:
    """Return CPU seconds of the main thread until the page can be used, and of a first search."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def thread_seconds() -> float:
        page.evaluate(IDLE)
        found = session.send("Performance.getMetrics")["metrics"]
        return float(next(each["value"] for each in found if each["name"] == "ThreadTime"))

    page.goto(path.as_uri(), timeout=120_000)
    page.locator("#f-q").wait_for()
    opened = thread_seconds()
    page.locator("#f-q").fill(f"item-{ITEMS - 1}")
    page.wait_for_function(FOUND, timeout=120_000)
    searched = thread_seconds()
    context.close()
    return opened, searched - opened


def main() -> None:
    """Measure both pages in turns."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit(MISSING)
    ours = make_page()
    pairs = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        paths = [Path(folder, name) for name in ("ours.html", "plain.html")]
        for path, text in zip(paths, (ours, plain(ours)), strict=True):
            path.write_text(text)
        print(f"{ITEMS} items, {paths[0].stat().st_size / 1e6:.1f} MB")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        pairs = [[measure(browser, path) for path in paths] for _ in range(ROUNDS)]
        browser.close()
    for at, name in enumerate(("open", "search")):
        print_figure(
            f"report_page_{name}", "CPU seconds", [(our[at], rival[at]) for our, rival in pairs]
        )


if __name__ == "__main__":
    main()
