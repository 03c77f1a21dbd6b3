"""`generate` and `chat`: which model is asked, and what is printed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.builders import Invoke
from tests.chat_model import write_chat_model

SHORT = ("--max-new-tokens", 4)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("artifacts")
    write_chat_model(place / "models" / "tiny", 1)
    return place


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr("sys.stdin", text)
    return text


def test_a_stored_model_answers_a_prompt(artifacts: Path, tuneloop: Invoke) -> None:
    asked = ("--artifacts", artifacts, "--prompt", "Say a", *SHORT)
    code, out, err = tuneloop("generate", "tiny", *asked, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found.keys() == {
        *("model", "text", "prompt_tokens", "tokens", "hit_limit", "forgotten"),
    }
    assert (found["model"], found["tokens"], found["hit_limit"]) == ("tiny", 4, True)
    code, out, err = tuneloop("generate", artifacts / "models" / "tiny", *asked)
    assert (code, out) == (0, found["text"] + "\n")
    assert "note: the answer was cut after 4 tokens; raise --max-new-tokens" in err


def test_a_prompt_can_come_from_standard_input(
    artifacts: Path, tuneloop: Invoke, stdin: io.StringIO
) -> None:
    asked = ("--artifacts", artifacts, *SHORT)
    expected = tuneloop("generate", "tiny", *asked, "--prompt", "Say a")
    stdin.write("Say a")
    stdin.seek(0)
    assert tuneloop("generate", "tiny", *asked, "--prompt", "-") == expected


def test_a_chat_without_a_terminal_answers_each_line(
    artifacts: Path, tuneloop: Invoke, stdin: io.StringIO
) -> None:
    stdin.write("Say a\n\n  Say b\n")
    stdin.seek(0)
    code, out, err = tuneloop("chat", "tiny", "--artifacts", artifacts, *SHORT, "--json")
    assert code == 0, err
    first, second = map(json.loads, out.splitlines())
    assert second["prompt_tokens"] > first["prompt_tokens"] + first["tokens"]
    assert not second["forgotten"]


def test_a_chat_at_a_terminal_ends_with_the_input(
    artifacts: Path, tuneloop: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(["Say a", "  ", "Say b"])

    def ask(shown: str) -> str:
        assert shown == "> "
        for turn in turns:
            return turn
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", ask)
    code, out, err = tuneloop("chat", "tiny", "--artifacts", artifacts, *SHORT)
    assert code == 0, err
    assert out.count("\n") >= 2
    assert err.count("note: the answer was cut after 4 tokens") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("none", "--prompt", "x"), 12, "none: neither a model nor a finished run below"),
        (("some/folder", "--prompt", "x"), 2, "add a model of the hub first: tuneloop models add"),
        (("./none", "--prompt", "x"), 12, "found no files, expected a folder with a model"),
        (("tiny", "--prompt", "  "), 2, "--prompt: found no text"),
        (("tiny", "--prompt", "x", "--thinking", "steps"), 3, "thinking"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    arguments: tuple[str, ...], code: int, said: str, artifacts: Path, tuneloop: Invoke
) -> None:
    found, out, err = tuneloop("generate", *arguments, "--artifacts", artifacts)
    assert (found, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) == 1
