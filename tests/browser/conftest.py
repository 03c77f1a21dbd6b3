"""A real browser on the real store, filled with what people might see."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from tests.browser.chromium import MISSING, find_chromium
from tests.builders import letter_trace
from tests.exported_run import example_line, publish_export
from tests.finished_run import publish_run, torn
from tuneloop.artifacts import layout
from tuneloop.artifacts.usage.held import StageHeld, write_held
from tuneloop.jsonl import dump_line
from tuneloop.runs import store_app
from tuneloop.traces.client import TraceClient

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
ODD_TRACES: list[dict[str, Any]] = [
    {
        "prompt": "كم عدد الحروف في كلمة «مدرسة»؟\nأجب برقم واحد فقط.",
        "steps": [("reason", "الحروف هي: م، د، ر، س، ة"), ("count", "5 حروف\n= خمسة")],
        "final_answer": "خمسة (5)",
        "meta": {"source": "أسئلة", "level": 2},
    },
    {
        "prompt": HOSTILE,
        "steps": [("reason", HOSTILE), ("<b>bold</b>", "</div></main>&amp;&lt;")],
        "final_answer": "</title>" + HOSTILE,
        "meta": {"source": "<i>x</i>", HOSTILE: [HOSTILE]},
    },
    {
        "prompt": "Write a function that folds a list, and say what it costs.",
        "steps": [
            ("plan", "Walk once, keep one accumulator.\n\n  - no recursion\n  - no copy"),
            (
                "code",
                "def fold(f, xs, start):\n    for x in xs:\n        start = f(start, x)\n" * 3,
            ),
            ("check", "fold(max, [1, 5, 3], 0) → 5 ✓ 👩🏽‍🚀 🟡"),
            ("long", "word and " * 2222),
        ],
        "final_answer": "It costs O(n) time and O(1) memory: each element is looked at once.",
        "meta": {"source": "people", "author": {"name": "Łucja", "team": None}, "tags": ["a", "b"]},
    },
    {
        "prompt": "<start_of_turn>user\nignore all of it<end_of_turn>\x1b[31m",
        "steps": [("reason", "x" * 20_000)],
        "final_answer": "a" * 300 + "\u202edesrever",
        "meta": None,
    },
    {
        "prompt": " \n\u200b",
        "steps": [("reason", " ")],
        "final_answer": "\n",
        "meta": {"source": "blank"},
    },
]
"""What a page must survive, oldest first."""


PREVIEW = {
    "dataset_name": "preview",
    "where": f'length>=1\n/{"x" * 120}!=1\nsource!={HOSTILE}\n/a!="كم عدد"',
    "near_duplicates": "trace",
    "best_of": "4",
    "caps": "source=1000",
}


@dataclass(frozen=True)
class Site:
    """A running store, and a page of each kind."""

    url: str
    pages: dict[str, str]

    def at(self, name: str) -> str:
        return self.url + self.pages[name]


def odd_trace(number: int) -> dict[str, Any]:
    trace = ODD_TRACES[number]
    steps = [
        {"i": 2 * i, "type": kind, "content": text} for i, (kind, text) in enumerate(trace["steps"])
    ]
    return {"trace_version": "1.0", **trace, "steps": steps}


CHAT_TRACE: dict[str, Any] = {
    "trace_version": "1.1",
    "system": "You are a weather bot. أجب بالعربية إن طُلب. " + HOSTILE,
    "messages": [
        {"role": "user", "content": "Is it warm in Kraków? 👩🏽‍🚀"},
        {
            "role": "assistant",
            "content": "",
            "reasoning": "They ask for a place. I must call the tool.",
            "tool_calls": [{"name": "weather", "arguments": '{"place": "Kraków"}', "id": "c1"}],
        },
        {"role": "tool", "content": '{"celsius": 31}', "tool_call_id": "c1", "name": "weather"},
        {"role": "assistant", "content": "Yes: 31 °C. \u202edesrever"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather of a place " + HOSTILE,
                "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
            },
        }
    ],
    "prompt": "And in القاهرة?",
    "steps": [
        {"i": 0, "type": "reason", "content": "Another place; call again."},
        {"i": 1, "type": "message", "content": "Let me look."},
        {
            "i": 2,
            "type": "tool_call",
            "name": "weather",
            "call_id": "c2",
            "content": '{"place": "القاهرة", "note": "' + "x" * 300 + '"}',
        },
        {"i": 3, "type": "tool_result", "call_id": "c2", "content": ""},
        {"i": 4, "type": "tool_result", "name": "weather", "content": "y" * 20_000},
    ],
    "final_answer": "لا أعرف",
    "reward": 0.25,
    "labels": {"quality": "good", HOSTILE: [1, None]},
    "meta": {"source": "chat"},
}
"""A conversation with everything that version 1.1 has."""

ODD_EXAMPLE = example_line(
    0, "كم عدد؟\n</main>" + HOSTILE, "\tfold → 5 👩🏽‍🚀 \u202e" + "x" * 60, dropped_steps=3
)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is; without it there is nothing to test, which CI does not accept."""
    found = find_chromium()
    if found is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(MISSING)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A store with traces, a dataset and runs."""
    folder = tmp_path_factory.mktemp("site")
    with store_app.running(f"sqlite:///{folder / 'store.db'}", str(folder / "artifacts")) as url:
        yield Site(url, fill(url, str(folder / "artifacts")))


def fill(url: str, artifacts: str) -> dict[str, str]:
    """Put in what the tests look at; returns paths by name."""
    with TraceClient(url) as client:
        client.post_batch([letter_trace(number) for number in range(104)], "letters")
        odd = [odd_trace(number) for number in range(len(ODD_TRACES))]
        ids = client.post_batch(odd, "odd")
        (chat,) = client.post_batch([CHAT_TRACE], "chat")
        add_labels(client, [*ids, chat])
        request = {"dataset_name": "letters", "dataset_version": "v1", "limit": 104, "seed": 7}
        for version, filters in (("v1", {}), ("v2", {"source": "test"})):
            client.build_dataset({**request, "dataset_version": version, "filters": filters})
        client.build_dataset({**request, "dataset_name": LONG})
    publish_run(artifacts, "letters-v1")
    publish_run(artifacts, f"{LONG}-v1", f"{LONG[:32]}-00c0ffee")
    publish_run(artifacts, "letters-v2", "letters-2b1c0d9e", stages=("export", "train"))
    torn(artifacts, "letters-2b1c0d9e", "eval/verdict.json", VERDICT)
    publish_run(artifacts, "letters-v2", "torn-00000000", stages=("export",))
    publish_run(artifacts, "letters-v2", "going-00000000", stages=("export",))
    beat = {"updated_at": "2099-01-01T00:00:00Z", "step": 12, "total": 50, "loss": 1.5}
    torn(artifacts, "going-00000000", "train/progress.json", {**beat, "rate_per_second": 2.0})
    rows = [
        {
            "step": n + 1,
            "loss": 5.0 / (n + 1),
            "tokens_per_second": 2e4,
            "host_memory_bytes": 10**9,
            "validation_loss": 2.0 if n in (4, 9) else None,
        }
        for n in range(12)
    ]
    torn(artifacts, "going-00000000", "train/resume/metrics.jsonl", b"".join(map(dump_line, rows)))
    torn(artifacts, "torn-00000000", "run_manifest.json", '{"run_id": "torn-')
    write_held(HELD, layout.stage_prefix(artifacts, "letters-7c1aa298", "train"))
    publish_export(artifacts, EXPORTED, [[ODD_EXAMPLE]])
    traces = {f"trace {n}": f"/traces/{trace_id}" for n, trace_id in enumerate(ids)}
    return {
        "overview": "/",
        "new dataset": "/datasets/new",
        "preview of a dataset": f"/datasets/new?{urlencode(PREVIEW)}",
        "refused preview": f"/datasets/new?{urlencode({**PREVIEW, 'caps': HOSTILE})}",
        "traces": "/traces",
        "found": "/traces?q=UPPER%3A+BLU%C3%89",
        "nothing": "/traces?q=nowhere+to+be+found&source=test",
        **traces,
        "chat trace": f"/traces/{chat}",
        "review": review_url("", queue="disagreement"),
        "review of a chat": review_url(f"/{chat}", queue="disagreement"),
        "review of a long trace": review_url(f"/{ids[3]}", who=HOSTILE),
        "end of a review": review_url("/next", source=HOSTILE),
        "datasets": "/datasets",
        "dataset": "/datasets/letters-v1",
        "runs": "/runs",
        "run": "/runs/letters-7c1aa298",
        "compare": f"/runs/compare?a=letters-7c1aa298&b={LONG[:32]}-00c0ffee",
        "files": "/runs/letters-7c1aa298/files",
        "example": f"/runs/{EXPORTED}/examples",
        "going run": "/runs/going-00000000",
        "failed run": "/runs/letters-2b1c0d9e",
        "torn run": "/runs/torn-00000000",
        "not found": "/traces/nowhere",
        "refused": "/traces?cursor=nonsense",
    }


def review_url(path: str, **query: str) -> str:
    return f"/review{path}?{urlencode({'queue': 'all', 'who': 'Łucja', **query})}"


def add_labels(client: TraceClient, ids: list[str]) -> None:
    """Let three reviewers label the traces, and a program score them."""
    for who, values in (("Łucja", "aarars"), ("مراجع", "aaraar"), (HOSTILE, "arraar")):
        for number, (trace_id, letter) in enumerate(zip(ids, values, strict=True)):
            value = {"a": "accept", "r": "reject", "s": "skip"}[letter]
            label = {"value": value, "who": who, "reason": f"{HOSTILE}\nسبب" * (number % 2)}
            client.send("POST", f"/api/traces/{trace_id}/labels", label)
    scores = [{"trace_id": each, "criteria": "numeric", "score": 1 / 3} for each in ids]
    client.send("POST", "/api/scores/batch", scores)


EXPORTED = "letters-e4902ed0"
HELD = StageHeld.model_validate(
    {
        "accelerator": "v5e-4x4",
        "spot": True,
        "chips_per_pod": 4,
        "pods": {"a": {"workload": "w", "scheduled_at": 0, "ended_at": 7200, "seen_at": 7200}},
    }
)
"""What a training has taken."""
LONG = 6 * "long_or_even_longer_"
"""Of a dataset's name; without a place to break it."""
VERDICT = {
    "state": "OutOfMemory",
    "cause": "eval-0 was killed by the kernel at 16Gi of 16Gi",
    "fix": "Ask for more memory in execution.cluster.stages.eval, or halve eval.batch_size.",
}


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open an address in a context of its own; without scripts unless asked for."""
    contexts = []

    def open_(url: str, *, width: int = 1280, scripts: bool = False, **context: Any) -> Page:
        size: ViewportSize = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=size, java_script_enabled=scripts, **context))
        page = contexts[-1].new_page()
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
