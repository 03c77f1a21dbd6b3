"""Wall time of `tuneloop --help`, beside a Typer program that has nothing to import."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

ROUNDS = 15
BARE = """
import typer
app = typer.Typer(rich_markup_mode=None)
app.command("a")(lambda: None)
app.command("b")(lambda: None)
app()
"""


def seconds(command: list[str]) -> float:
    """Wall time of one whole process."""
    since = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - since


def main() -> None:
    """Measure both in turn and print medians."""
    ours = [sys.executable, "-m", "tuneloop.cli", "--help"]
    bare = [sys.executable, "-c", BARE, "--help"]
    pairs = [(seconds(ours), seconds(bare)) for _ in range(ROUNDS + 1)][1:]
    value, rival = (statistics.median(column) for column in zip(*pairs, strict=True))
    figure = {
        "figure": "startup",
        "value": round(value, 4),
        "unit": "s",
        "rival": round(rival, 4),
        "ratio": round(value / rival, 2),
    }
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
