"""Wall time of `tuneloop --help`; compared with a Typer program that imports nothing else."""

from __future__ import annotations

import subprocess
import sys
import time

from figure import print_figure, sized

ROUNDS = sized(15, 1)
BARE = """
import typer
app = typer.Typer(rich_markup_mode=None)
app.command("a")(lambda: None)
app.command("b")(lambda: None)
app()
"""


def seconds(command: list[str]) -> float:
    """Return the wall time of one whole process, in seconds."""
    since = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - since


def main() -> None:
    """Measure both alternately and print medians."""
    ours = [sys.executable, "-m", "tuneloop.cli", "--help"]
    bare = [sys.executable, "-c", BARE, "--help"]
    pairs = [(seconds(ours), seconds(bare)) for _ in range(ROUNDS + 1)][1:]
    print_figure("startup", "s", pairs)


if __name__ == "__main__":
    main()
