"""Code: an answer is correct if the program in it passes the tests of the item, in a subprocess.

It runs programs that a model wrote, so it is off unless it is allowed by name. Limits are set on
time, memory, files and output; the environment is empty. The network is not closed: run it where a
program without credentials can do no harm.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import Field

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.evaluation.scorers.options import Options
from tuneloop.evaluation.scorers.row import correct, wrong
from tuneloop.evaluation.scorers.text.normalise import normalise
from tuneloop.evaluation.scorers.text.places import fenced

MAX_OUTPUT_BYTES = 1 << 20
_HARNESS = """\
import os, resource, runpy, sys
cpu, memory, output = map(int, sys.argv[1:])
mark = sys.stdin.readline()
# At the hard limit of the processor, the kernel sends SIGKILL, which has no reason.
resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
for kind, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, output),
                   (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64),
                   (resource.RLIMIT_NPROC, 64)):
    resource.setrlimit(kind, (most, most))
done = os.dup(2)
del sys.argv[1:]
names = runpy.run_path("program.py", run_name="__main__")
if os.path.exists("tests.py"):
    exec(compile(open("tests.py").read(), "tests.py", "exec"), names)
sys.stdout.flush()
os.write(done, mark.encode())
"""


class CodeOptions(Options):
    """Options of `code`."""

    tests: str | None = None
    """Python statements that run after the program, with its names, such as `assert f(2) == 4`.
    Null: what the program prints must equal an accepted answer."""
    stdin: str = ""
    """Standard input of the program."""
    timeout_seconds: float = Field(default=10.0, gt=0, le=600)
    """Longest time of the program with its tests, in seconds of the clock and of the processor."""
    memory_bytes: int = Field(default=1 << 30, ge=64 << 20)
    """Address space of the program, in bytes."""


def judge_code(answer: str, item: Item, options: CodeOptions) -> Judgement:
    """Run the program of the last code block with Python."""
    program = fenced(answer)
    with tempfile.TemporaryDirectory(prefix="tuneloop-code-") as folder:
        try:
            return _judge(program, item, options, Path(folder))
        except UnicodeEncodeError:
            return wrong(program, "the program has a lone surrogate, which no file can hold")


def _judge(program: str, item: Item, options: CodeOptions, folder: Path) -> Judgement:
    (folder / "program.py").write_text(program, encoding="utf-8")
    if options.tests is not None:
        (folder / "tests.py").write_text(options.tests, encoding="utf-8")
    mark = secrets.token_hex(16)
    code = _run(mark, options, folder)
    errors = (folder / "stderr").read_bytes().decode("utf-8", "replace")
    if code is None:
        return wrong(program, f"the program took longer than {options.timeout_seconds:g} s")
    if code == -signal.SIGXCPU:
        return wrong(program, f"the program took longer than {options.timeout_seconds:g} s")
    if code == -signal.SIGXFSZ:
        return wrong(program, f"the program wrote more than {MAX_OUTPUT_BYTES} bytes")
    if code != 0:
        last = errors.rstrip().rpartition("\n")[2][:200] or f"exit code {code}"
        return wrong(program, f"the program failed: {last}")
    if mark not in errors:
        return wrong(program, "the program ended before its tests")
    if options.tests is not None:
        return correct(program, item.expected_answer)
    printed = (folder / "stdout").read_bytes().decode("utf-8", "replace")
    for spelling in (item.expected_answer, *item.accepted_answers):
        if normalise(printed, case_sensitive=True) == normalise(spelling, case_sensitive=True):
            return correct(program, spelling)
    return wrong(program, f"the program printed {printed[:100]!r}")


def _run(mark: str, options: CodeOptions, folder: Path) -> int | None:
    """Run the harness and return its exit code; None if it took too long."""
    limits = (-int(-options.timeout_seconds // 1), options.memory_bytes, MAX_OUTPUT_BYTES)
    command = [sys.executable, "-I", "-S", "-B", "-c", _HARNESS, *map(str, limits)]
    (folder / "stdin").write_text(f"{mark}\n{options.stdin}", encoding="utf-8")
    with (
        open(folder / "stdin", "rb") as read,
        open(folder / "stdout", "wb") as out,
        open(folder / "stderr", "wb") as err,
    ):
        process = subprocess.Popen(
            command, cwd=folder, env={}, stdin=read, stdout=out, stderr=err, start_new_session=True
        )
        (folder / "stdin").unlink()
        try:
            return process.wait(options.timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # Also what the program has started and left running.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
