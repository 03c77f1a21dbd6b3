"""What can be checked here of pages that need a cluster: syntax, verbs, options, paths, specs."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import yaml

from jobs.__main__ import SUBMIT
from tests.builders import REPOSITORY
from tests.ci.tools import ensure_shellcheck
from tests.cluster.controlplane import ensure_binaries
from tests.docs.blocks import shell_blocks
from tuneloop.cli import app
from tuneloop.specs.run import RunSpec

PAGES = ("tutorial/laptop.md", "tutorial/kind.md", "tutorial/gke.md")
GUIDES = ("how-to/models.md",)
OPERATORS = set("();<>|&")
KEYWORDS = {"until", "while", "if", "then", "do", "else", "!"}


def commands(page: str, program: str) -> Iterator[list[str]]:
    """Each call of a program: its arguments. What stands in double quotes is one argument."""
    for block in shell_blocks(page):
        text = re.sub(r"<<-?\s*'?(\w+)'?\n.*?^\1$", "", block, flags=re.DOTALL | re.MULTILINE)
        for line in text.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            call: list[str] = []
            for token in [*lexer, ";"]:
                if set(token) <= OPERATORS:
                    yield from _call_of(call, program)
                    call = []
                else:
                    call.append(token)


def _call_of(words: list[str], program: str) -> Iterator[list[str]]:
    first = next((n for n, w in enumerate(words) if w not in KEYWORDS and "=" not in w), None)
    if first is not None and words[first].removeprefix(".venv/bin/") == program:
        yield words[first + 1 :]


def options_of(arguments: list[str]) -> set[str]:
    return {word.split("=", 1)[0] for word in arguments if re.match(r"--?[a-zA-Z]", word)}


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_shell(page: str) -> None:
    ensure_shellcheck()
    blocks = shell_blocks(page)
    assert len(blocks) >= 4
    # SC2016: single quotes are meant; SC2088/SC1091 do not come up.
    done = subprocess.run(
        ["shellcheck", "--shell=bash", "--exclude=SC2016", "-"],
        input="".join(blocks),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("page", [*PAGES, *GUIDES])
def test_verbs_and_options_of_tuneloop_exist(page: str) -> None:
    calls = list(commands(page, "tuneloop"))
    calls += [call[2:] for call in commands(page, "python") if call[:3] == ["-m", "jobs", SUBMIT]]
    assert len(calls) >= 5
    for call in calls:
        command: Any = typer.main.get_command(app)
        words = list(call)
        while hasattr(command, "commands"):  # a group: `tuneloop traces import`
            name = words.pop(0)
            assert name in command.commands, f"{page}: tuneloop {' '.join(call)}"
            command = command.commands[name]
        known = {name for parameter in command.params for name in parameter.opts}
        assert options_of(words) <= known, f"{page}: tuneloop {' '.join(call)}"


@pytest.mark.parametrize("page", PAGES[1:])
def test_verbs_and_options_of_kubectl_exist(page: str) -> None:
    calls = list(commands(page, "kubectl"))
    assert len(calls) >= 5
    for call in calls:
        words = [word for word in call if not word.startswith("-")]
        told = help_of(*_verb(words))
        for option in options_of(call[: call.index("--")] if "--" in call else call):
            assert re.search(rf"(?:^|\s|,){re.escape(option)}[\s=,]", told), f"{page}: {call}"


def _verb(words: list[str]) -> tuple[str, ...]:
    depth = {"create": 3 if words[1] == "secret" else 2, "rollout": 2}.get(words[0], 1)
    return tuple(words[:depth])


@functools.cache
def help_of(*verb: str) -> str:
    kubectl = ensure_binaries() / "kubectl"
    said = []
    for arguments in ([*verb, "--help"], ["options"]):
        done = subprocess.run([kubectl, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "Usage:" in said[0], verb
    return "\n".join(said)


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page: str) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for call in commands(page, "make"):
        for target in (word for word in call if "=" not in word):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"


@pytest.mark.parametrize("page", PAGES)
def test_paths_of_the_checkout_exist(page: str) -> None:
    text = "".join(shell_blocks(page))
    for path in set(re.findall(r"(?:manifests|jobs|requirements|eval|lib)/[\w./-]+", text)):
        assert (REPOSITORY / path).exists(), f"{page}: {path}"


@pytest.mark.parametrize("page", PAGES[1:])
def test_the_spec_that_a_page_writes_is_a_spec(page: str) -> None:
    """The laptop's spec, changed and added to as the page does."""
    laptop, here = "".join(shell_blocks(PAGES[0])), "".join(shell_blocks(page))
    found = re.search(r"cat > mine.yaml <<'END'\n(.*?)^END$", laptop, re.DOTALL | re.MULTILINE)
    added = re.search(r"cat >> mine-\w+.yaml <<'?END'?\n(.*?)^END$", here, re.DOTALL | re.MULTILINE)
    assert found and added
    values = {"BUCKET": "b", "PROJECT_ID": "p", "TRAIN": f"r/t@sha256:{'0' * 64}"}
    values["BASE"] = values["TRAIN"]
    text = re.sub(r"\$(\w+)", lambda m: values[m[1]], found[1] + added[1])
    spec = RunSpec.model_validate(yaml.safe_load(text))
    assert spec.execution.cluster and spec.execution.cluster.namespace == "tuneloop"
