"""Scorers that run code, ask a model, or load a user's file; long texts; and the worker."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.evaluation.scorers.test_scoring import item, parse
from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.errors import SpecError
from tuneloop.evaluation.scorers.scoring import score_text
from tuneloop.evaluation.scorers.user_file import load_user_scorer
from tuneloop.evaluation.scorers.worker import Crashed, TooLong, Worker


def judged(text: str, scorer: Any, expected: str = "x", allow: tuple[str, ...] = ()) -> Judgement:
    return score_text(text, item(expected), scorer, parse=lambda text: text, allow=allow)[0]


# Code


TESTS = {"kind": "code", "tests": "assert f(2) == 4", "timeout_seconds": 5}


@pytest.mark.parametrize(
    ("program", "state", "explanation"),
    [
        ("Here:\n```python\ndef f(x):\n    return x * x\n```\nDone.", "correct", None),
        (
            "import os\nassert set(os.environ) <= {'LC_CTYPE'}\ndef f(x): return x + 2",
            "correct",
            None,
        ),
        ("def f(x): return x", "wrong", "the program failed: AssertionError"),
        ("def f(x) return x", "wrong", "the program failed: SyntaxError: expected ':'"),
        ("import os; os._exit(0)", "wrong", "the program ended before its tests"),
        ("open('big', 'wb').write(b'x' * (2 << 20))", "wrong", "File too large"),
        ("x = bytearray(3 << 30)", "wrong", "the program failed: MemoryError"),
        ("x = '\ud800'", "wrong", "lone surrogate"),
    ],
)
def test_programs_run_with_limits(program: str, state: str, explanation: str | None) -> None:
    found = judged(program, TESTS, allow=("code",))
    assert found.state == state
    assert (explanation or "") in (found.explanation or "")


def test_a_program_that_does_not_end_is_stopped_with_its_children() -> None:
    program = "import subprocess as s\ns.Popen(['/bin/sleep', '97'])\nwhile True: pass"
    found = judged(program, TESTS | {"timeout_seconds": 1}, allow=("code",))
    assert (found.state, found.explanation) == ("wrong", "the program took longer than 1 s")
    # SIGKILL has been sent to the child, which the kernel ends when the child next runs.
    deadline = time.monotonic() + 30
    while sleeping := [pid for pid in os.listdir("/proc") if pid.isdigit() and _sleeps(pid)]:
        assert time.monotonic() < deadline, sleeping
        time.sleep(0.01)


def _sleeps(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read() == "/bin/sleep\x0097\x00"
    except OSError:  # it has just ended
        return False


def test_what_a_program_prints_may_be_the_answer() -> None:
    scorer = {"kind": "code", "stdin": "5\n"}
    assert judged("print(int(input()) + 2)", scorer, "7", allow=("code",)).state == "correct"
    assert judged("print(5)", scorer, "7", allow=("code",)).explanation == (
        "the program printed '5\\n'"
    )


def test_programs_do_not_run_unless_they_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="runs programs that a model wrote and is not allowed"):
        judged("print(7)", "code", "7", allow=("judge",))
    monkeypatch.setenv("TUNELOOP_ALLOW_SCORERS", "judge, code")
    assert judged("print(7)", "code", "7").state == "correct"


# Judge


class Server(ThreadingHTTPServer):
    """A chat completion server that answers with prepared replies."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, Any]] = []
        self.requests: list[tuple[str, str | None, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        status, reply = self.server.replies.pop(0)
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def reply(text: Any) -> tuple[int, Any]:
    message = {"role": "assistant", "content": text}
    return 200, {"model": "judge-1", "system_fingerprint": "fp", "choices": [{"message": message}]}


def test_a_judge_is_asked_and_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    scorer = {
        "kind": "judge",
        "url": server.url,
        "model": "m",
        "model_digest": "abc",
        "api_key_variable": "JUDGE_KEY",
    }
    server.replies = [
        (503, {}),
        reply("Both name the capital.\nCORRECT."),
        reply("No.\n**INCORRECT**"),
    ]
    found = judged("The capital, {expected}", scorer, "Paris", allow=("judge",))
    assert found.state == "correct"
    assert found.explanation is not None
    assert found.explanation.startswith(
        "Both name the capital. (judge judge-1, model digest abc, fingerprint fp, prompt sha256 "
    )
    path, key, body = server.requests[1]
    assert (path, key) == ("/v1/chat/completions", "Bearer sk-secret")
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert "The capital, {expected}\n</answer>" in body["messages"][0]["content"]
    assert judged("Rome", scorer, "Paris", allow=("judge",)).state == "wrong"
    server.replies = [reply("Yes.\nCORRECT")]
    chat = Item(
        set="",
        id="a",
        prompt="And of France?",
        system="Be brief.",
        messages=({"role": "user", "content": "Capital of Italy?"},),
        bare_answer=True,
        expected_answer="Paris",
        category="",
    )
    strict, _ = score_text("Paris", chat, scorer, parse=lambda text: None, allow=("judge",))
    assert strict.state == "correct"
    asked = "system: Be brief.\n\nuser: Capital of Italy?\n\nuser: And of France?"
    assert asked in server.requests[-1][2]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("answer", "explanation"),
    [
        (reply("I cannot say"), "the judge gave no verdict: 'I cannot say'"),
        (reply("It is CORRECT, or not"), "the judge gave no verdict"),
        (reply(None), "sent no chat completion"),
        ((200, []), "sent no chat completion"),
        ((401, {}), "cannot be asked: Client error '401 Unauthorized'"),
    ],
)
def test_a_judge_without_a_verdict_is_an_error(
    server: Server, answer: tuple[int, Any], explanation: str
) -> None:
    server.replies = [answer]
    scorer = {"kind": "judge", "url": server.url, "model": "m", "attempts": 1}
    found = judged("Rome", scorer, allow=("judge",))
    assert found.state == "error"
    assert explanation in (found.explanation or "")


def test_a_judge_that_is_away_is_an_error_and_must_be_allowed() -> None:
    scorer = {"kind": "judge", "url": "http://127.0.0.1:9/v1", "model": "m", "attempts": 1}
    with pytest.raises(SpecError, match="scorer judge sends data and is not allowed"):
        judged("Rome", scorer)
    assert judged("Rome", scorer, allow=("judge",)).state == "error"
    with pytest.raises(SpecError, match=r"prompt is 'Right\?', expected a prompt with {answer}"):
        judged("Rome", scorer | {"prompt": "Right?"})


# A user's file


@pytest.mark.parametrize(
    ("body", "state", "value", "explanation"),
    [
        ("return completion == item.expected_answer", "correct", 1.0, None),
        ("return completion != item.expected_answer", "wrong", 0.0, None),
        ("return 0.25", "wrong", 0.25, None),
        ("return {'value': 1, 'explanation': 'so'}", "correct", 1.0, "so"),
        ("return 'yes'", "error", 0.0, "mine.py returned str, expected a bool, a number or a dict"),
        ("return None", "error", 0.0, "mine.py returned NoneType, expected"),
        ("return 2", "error", 0.0, "mine.py returned 2, expected a value from 0 to 1"),
        ("return float('nan')", "error", 0.0, "mine.py returned float, expected"),
        ("return {'score': 1}", "error", 0.0, "mine.py returned the unknown key 'score'"),
        ("return {'value': 1, 'answer': 5}", "error", 0.0, "an answer or explanation that is not"),
        ("return 1 / 0", "error", 0.0, "mine.py raised ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_users_function_returns(
    body: str, state: str, value: float, explanation: str | None
) -> None:
    scorer = load_user_scorer(f"def score(completion, item):\n    {body}\n".encode(), "a/mine.py")
    found = judged("x", scorer)
    assert (found.state, found.value) == (state, value)
    assert (explanation or "") in (found.explanation or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"def f(): pass", "mine.py: has no function score, expected score(completion, item)"),
        (b"x =", "mine.py:1: not Python (invalid syntax), expected a file with the function score"),
        (b"import nothing_like_it", "mine.py: raised ModuleNotFoundError when it was loaded"),
        (b"\xff", "mine.py: raised UnicodeDecodeError when it was loaded"),
        (b"score = 5", "mine.py: has no function score"),
        (b"READS = 'all'\ndef score(c, i): pass", "mine.py: READS is 'all', expected 'answer' or"),
    ],
)
def test_a_file_that_is_no_scorer_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_user_scorer(text, "mine.py")
    assert str(caught.value).startswith(message)


def test_the_digest_of_a_file_is_that_of_its_bytes() -> None:
    one = load_user_scorer(b"def score(c, i): return 1", "a.py")
    other = load_user_scorer(b"def score(c, i): return 1 ", "a.py")
    assert len(one.sha256) == 64
    assert one.sha256 != other.sha256


# Bounded time


LONG = [
    unit * (20_000 // len(unit))
    for unit in (
        "9", "1 ", "1,", "-", "$", "1e", "a", "1/", "*", "1 1/1 ", "(", "5.5.", "{", "$5", '"', "'\"",
        "\\boxed{", "\\frac{", "<think>", "</think>", "<pad>", "answer is ", "Answer: ", "```\n", "A ",
        "(A", "A or ", " ", "\u00a0", "½", "²", "₂", "①", "\u200d", "👨\u200d", "\ud800", ". ", "=", "[",
        "5\u202f", "#### ", "\n\n", "\n", "<", "\\text{", "x^", "%", "e\u0301",
    )
]  # fmt: skip


@pytest.mark.parametrize("kind", ["exact", "numeric", "choice", "json_schema"])
def test_answers_of_20_000_characters_take_little_time(kind: str) -> None:
    scorer: Any = {"kind": kind, "schema": {}} if kind == "json_schema" else kind
    asked = item("5", prompt="?\n5) x\n6) y")
    slowest = 0.0
    for text in LONG:
        for whole in (text, f"Answer: {text}", f"{text}Answer: 5"):
            before = time.process_time()
            for judgement in score_text(whole, asked, scorer, parse=parse):
                (judgement.answer or "").encode("utf-8")
            slowest = max(slowest, time.process_time() - before)
    assert slowest < 1  # linear; a quadratic step takes several seconds


# The worker


def prepare_tricks() -> Callable[[str], Any]:
    def run(what: str) -> Any:
        if what == "sleep":
            time.sleep(60)
        if what == "die":
            os._exit(3)
        if what == "memory":
            try:
                return len(bytearray(8 << 30))
            except MemoryError:
                return "refused"
        return what.upper()

    return run


def test_a_worker_is_killed_when_it_takes_too_long_and_starts_again() -> None:
    worker = Worker(prepare_tricks, memory_bytes=2 << 30)
    try:
        assert worker.call("a", 10) == "A"
        with pytest.raises(TooLong):
            worker.call("sleep", 0.1)
        assert worker.call("memory", 10) == "refused"
        with pytest.raises(Crashed):
            worker.call("die", 10)
        assert worker.call("b", 10) == "B"
    finally:
        worker.close()
