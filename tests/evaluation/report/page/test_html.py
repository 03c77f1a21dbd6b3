"""The HTML report: complete, harmless, and the same bytes each time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from markupsafe import escape

from tests.evaluation.report.test_build import full, full_context
from tests.evaluation.samples import samples_of
from tuneloop.artifacts.evaluation.delta_report import Context
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples
from tuneloop.evaluation.report.build import build_report
from tuneloop.evaluation.report.markdown import render_markdown
from tuneloop.evaluation.report.page import html
from tuneloop.evaluation.report.page.diff import WordDiff
from tuneloop.evaluation.report.page.visible import visible

HOSTILE = (
    "</noscript></script></pre></details>"
    "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
    " \u202egnp.exe \x00\x1b[31m \ud800 \ufffe " + "`" * 50_000 + " $\\bad$ {{ 7 * 7 }} ]]> -->"
)


def render(samples: EvalSamples, context: Context | None = None) -> str:
    return html.render_html(build_report(samples, context or Context()), samples)


class Elements(HTMLParser):
    """Count elements, and keep the attributes that could do something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.suspect: list[tuple[str, str | None]] = []
        self.ids: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.ids += [value for name, value in attrs if name == "id"]
        self.suspect += [
            (name, value)
            for name, value in attrs
            if name in ("src", "style", "srcset")
            or name.startswith("on")
            or (name == "href" and not (value or "").startswith("#"))
        ]


@pytest.mark.golden
def test_snapshot(golden: Callable[[str, str], None]) -> None:
    text = render(full(), full_context())
    assert text == render(full(), full_context())
    golden("report/delta_report.html", re.sub("(?s)<(svg|style|script).*?</\\1>", "<\\1/>", text))


def test_pictures_are_small_deterministic_and_themed() -> None:
    pictures = re.findall("(?s)<svg.*?</svg>", render(full(), full_context()))
    assert len(pictures) == 5
    for each in pictures:
        assert len(each) < 40_000
        root = ElementTree.fromstring(each)
        assert root.get("role") == "img" and len(root.get("aria-label", "")) > 20
        assert not re.search(r"style=|#0[1-6]0|<metadata|\d{4}-\d\d-\d\d", each)
        assert "var(--ink)" in each or "var(--soft)" in each


def test_hostile_text_stays_text() -> None:
    harmless = samples_of({"base": ["wrong"], "tuned": ["correct"]})
    (key, item), *_ = harmless.items.items()
    texts = ("prompt", "expected_answer", "category", "difficulty", "system")
    changes: dict[str, Any] = {name: HOSTILE for name in texts}
    call = {"name": HOSTILE, "arguments": HOSTILE}
    changes["messages"] = ({"role": "assistant", "content": HOSTILE, "tool_calls": [call]},)
    changes["tools"] = ({"type": HOSTILE},)
    found = EvalSamples(
        harmless.sets,
        {name: msgspec.structs.replace(m, run=HOSTILE) for name, m in harmless.models.items()},
        {key: msgspec.structs.replace(item, accepted_answers=(HOSTILE,), **changes)},
        tuple(
            msgspec.structs.replace(
                one,
                text=HOSTILE + one.model,
                score=msgspec.structs.replace(one.score, answer=HOSTILE, explanation=HOSTILE),
            )
            for one in harmless.samples
        ),
    )
    text = render(found, Context(header={HOSTILE: HOSTILE}))
    text.encode()
    page = Elements(text)
    assert (page.counts["script"], page.counts["style"], page.suspect) == (1, 1, [])
    assert "img" not in page.counts
    assert len(set(page.ids)) == len(page.ids)
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text
    )
    assert "⟨U+202E⟩" in text and "␛[31m" in text and "{{ 7 * 7 }}" in text
    assert "default-src &#39;none&#39;" in text and "unsafe-inline" not in text


def test_what_is_asked_before_the_prompt_is_in_a_fold() -> None:
    plain = samples_of({"base": ["wrong"] * 2, "tuned": ["correct"] * 2})
    first = next(iter(plain.items))
    items = dict(plain.items)
    items[first] = msgspec.structs.replace(
        items[first],
        system="Be <b>",
        messages=(
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello", "reasoning": "greet"},
        ),
        tools=({"type": "function", "function": {"name": "look"}},),
    )
    found = EvalSamples(plain.sets, plain.models, items, plain.samples)
    text = render(found)
    assert text.count("before the question</summary>") == 1
    fold = text[text.index("4 texts before the question") :].partition("</details>")[0]
    shown = [re.sub("<[^>]*>", "", each) for each in re.findall("(?s)<p.*?</pre>", fold)]
    assert shown[:3] == ["systemBe &lt;b&gt;", "userHi", "assistantgreet\n\nHello"]
    assert "look" in shown[3]
    assert "before the question" not in render(plain)

    report = build_report(found, Context())
    markdown = render_markdown(report, found)
    assert "<details><summary>Before the question</summary>" in markdown
    assert "```text\ngreet\n\nHello\n```" in markdown
    assert "Before the question" not in render_markdown(build_report(plain, Context()), plain)


def test_every_item_is_there_with_all_that_was_said_of_it() -> None:
    text = render(full(), full_context())
    assert text.count('<details class="i" id="i') == len(full().items)
    order = [
        text.index(f">{name} <span") for name in ("Regressions", "Improvements", "Still wrong")
    ]
    assert order == sorted(order)
    for sample in full().samples[:12]:
        for line in sample.text.split("\n"):
            assert str(escape(line)) in re.sub("</?(del|ins)>", "", text)


def test_more_items_and_longer_texts_than_a_page_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MAX_ITEMS", 4)
    monkeypatch.setattr(html, "MAX_BYTES", 8_000)
    long = {"base": ["x" * 5000] * 6, "tuned": ["short"] * 6}
    text = render(samples_of({"base": ["wrong"] * 6, "tuned": ["correct"] * 6}, texts=long))
    assert text.count('<details class="i" id="i') == 4
    assert "the first 4 of 6 items" in text
    assert "characters are not shown" in text and "x" * 3000 not in text


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        ("It is 5 apples.\nAnswer: 5", "It is 5 apples.\nAnswer: 7", ["7"]),
        ("same", "same", []),
        ("", "new", ["new"]),
        ("one two three four", "one two 3 four", ["3 "]),
        ("عدد 5", "عدد 6", ["6"]),
    ],
)
def test_words_that_differ_are_marked(before: str, after: str, marked: list[str]) -> None:
    old, new = WordDiff().runs(before, after)
    assert "".join(text for _, text in old) == before
    assert "".join(text for _, text in new) == after
    assert [text for changed, text in new if changed] == marked


def test_the_time_of_a_diff_is_bounded() -> None:
    swapped = " ".join(f"w{n ^ 1}" for n in range(4000)), " ".join(f"w{n}" for n in range(4000))
    lines = swapped[0].replace(" ", "\n"), swapped[1].replace(" ", "\n")
    started = time.process_time()
    for before, after in (swapped, lines, ("ab " * 7000, "ba " * 7000)):
        old, new = WordDiff().runs(before, after)
        assert "".join(text for _, text in old) == before
        assert "".join(text for _, text in new) == after
    assert time.process_time() - started < 2
    assert WordDiff(budget=0).runs("a b c", "a x c") == (
        [(False, "a "), (True, "b "), (False, "c")],
        [(False, "a "), (True, "x "), (False, "c")],
    )


def test_visible() -> None:
    assert visible("a\r\nb\tc") == "a\nb\tc"
    assert visible("\x00\r\x7f\u200f\ud83d") == "␀␍␡⟨U+200F⟩⟨U+D83D⟩"
