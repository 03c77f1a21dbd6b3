"""Render the delta report as one HTML file that loads nothing and can be read without scripts.

Texts of models and items are untrusted: the templates escape them, characters that could hide or
reorder text are spelled out, and the page's policy forbids everything but its own style and script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup, escape

from tuneloop import templating
from tuneloop.artifacts.evaluation.delta_report import DeltaReport
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, Sample
from tuneloop.evaluation.report.markdown import interval, percent, points
from tuneloop.evaluation.report.page.diff import Runs, WordDiff
from tuneloop.evaluation.report.page.pictures import pictures
from tuneloop.evaluation.report.page.visible import line, visible
from tuneloop.evaluation.report.texts import (
    OUTCOMES,
    ItemTexts,
    items_with_texts,
    short,
    texts_before,
)
from tuneloop.evaluation.report.verdict import change

FOLDER = "evaluation/report/page"
MAX_ITEMS = 10_000
"""Items on the page; `samples.jsonl` has all."""
MAX_ITEMS_OF_OTHERS = 2_000
"""Items on the page up to which the answers of all models are there, and not of two only."""
MAX_BYTES = 20_000_000
"""Bytes of all texts on the page; longer texts are cut in the middle to fit."""
MIN_CUT = 300
"""Characters to which no text is cut further."""


@dataclass
class Panel:
    """One answer in full."""

    model: str
    sample: Sample
    runs: Runs
    tag: str
    """Element of changed parts: `del` or `ins`; empty without a comparison."""
    cut: int = 0
    """Characters that are not shown."""

    @property
    def text(self) -> Markup:
        """The text, with its changed parts marked."""
        if not self.tag:
            return escape("".join(text for _, text in self.runs))
        return Markup("").join(
            Markup(f"<{self.tag}>{{}}</{self.tag}>").format(text) if changed else escape(text)
            for changed, text in self.runs
        )


@dataclass
class Entry:
    """One item with what the page shows of it."""

    number: int
    texts: ItemTexts
    panels: list[Panel] = field(default_factory=list)
    before: list[tuple[str, str]] = field(default_factory=list)
    """What is asked before the prompt, as (who, text)."""

    @property
    def longest(self) -> int:
        """Tokens of the longest answer of the compared models."""
        return max((s.tokens for s in (*self.texts.base, *self.texts.tuned)), default=0)

    @property
    def is_cut(self) -> bool:
        """Whether an answer of the compared models reached the token limit."""
        return any(s.hit_limit for s in (*self.texts.base, *self.texts.tuned))


def render_html(report: DeltaReport, samples: EvalSamples) -> str:
    """Render the report.

    Args:
        report: the delta report.
        samples: the samples that it was built from.
    """
    found = items_with_texts(report, samples)
    found.sort(key=lambda one: OUTCOMES.index(one.outcome))
    shown = found[:MAX_ITEMS]
    with_others = len(shown) <= MAX_ITEMS_OF_OTHERS or not any(one.others for one in shown)
    if not with_others:
        shown = [replace(one, others=()) for one in shown]
    entries = _entries(shown, _limit(shown), report)
    environment = templating.environment(
        percent=percent,
        points=points,
        interval=interval,
        short=short,
        visible=visible,
        line=line,
        change=change,
    )
    style = environment.get_template(f"{FOLDER}/report.css.j2").render()
    script = environment.get_template(f"{FOLDER}/report.js.j2").render()
    template = environment.get_template(f"{FOLDER}/delta_report.html.j2")
    lengths = sorted(entry.longest for entry in entries)
    return template.render(
        report=report,
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
        pictures=list(pictures(report)),
        groups=[(name, [e for e in entries if e.texts.outcome == name]) for name in OUTCOMES],
        total=len(found),
        with_others=with_others,
        shown=len(shown),
        sets=[each.name for each in report.sets],
        categories=sorted({one.item.category for one in shown}),
        median=lengths[len(lengths) // 2] if lengths else 0,
        run=next((each.run for each in report.models if each.run), None),
    )


def policy(style: str, script: str) -> str:
    """Return the content security policy: nothing but the page's own style and script."""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}';"
        " base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _limit(items: Sequence[ItemTexts]) -> int:
    """Return the length to which texts are cut so that all of them fit on the page."""
    lengths = sorted(
        len(text.encode("utf-8", "replace"))
        for one in items
        for text in (
            one.question.prompt,
            *(text for _, text in texts_before(one.question)),
            *(s.text for s in (*one.base, *one.tuned)),
            *(s.text for _, own in one.others for s in own),
        )
    )
    left = MAX_BYTES
    for number, length in enumerate(lengths):
        share = left // (len(lengths) - number)
        if length > share:
            return max(MIN_CUT, share)
        left -= length
    return max(MIN_CUT, lengths[-1]) if lengths else MIN_CUT


def _entries(items: Sequence[ItemTexts], limit: int, report: DeltaReport) -> list[Entry]:
    diff = WordDiff()
    bases = {each.name: each.base for each in report.sets}
    entries = []
    for number, one in enumerate(items, start=1):
        before = [(who, cut(text, limit)) for who, text in texts_before(one.question)]
        entry = Entry(number, one, before=before)
        base_name = bases[one.item.set]
        for at in range(max(len(one.base), len(one.tuned))):
            pair = [own[at] if at < len(own) else None for own in (one.base, one.tuned)]
            texts = [visible(cut(s.text, limit)) if s else "" for s in pair]
            runs = diff.runs(*texts) if all(pair) else tuple([(False, text)] for text in texts)
            for sample, own, tag, name in zip(
                pair, runs, ("del", "ins"), (base_name, "tuned"), strict=True
            ):
                if sample is not None:
                    entry.panels.append(Panel(name, sample, own, tag if all(pair) else ""))
        for name, own_samples in one.others:
            for sample in own_samples:
                entry.panels.append(
                    Panel(name, sample, [(False, visible(cut(sample.text, limit)))], "")
                )
        entries.append(entry)
    return entries


def cut(text: str, limit: int) -> str:
    """Cut the middle of a text that is longer than a limit, and say so."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters are not shown …]\n{text[-half:]}"
