"""The verb `logs`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tuneloop.cli.shared.option_groups import ClusterOptions, OneRun, expand_groups
from tuneloop.cli.shared.options import MOST
from tuneloop.cli.shared.terminal import stop_if_lost, write_data
from tuneloop.errors import UsageError

if TYPE_CHECKING:
    from tuneloop.runs.logs.follow import LogLine, StageLog

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(expand_groups(logs))


def logs(
    run: OneRun,
    cluster: ClusterOptions,
    stage: Annotated[
        str | None, typer.Argument(help="Name of the stage; default: the latest.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Print new lines until the stage ends, across restarts."
        ),
    ] = False,
    rank: Annotated[
        int | None,
        typer.Option("--rank", min=0, max=MOST, help="Only the process with this number, from 0."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="DURATION", help="Only lines of the last 30s, 10m, 1h30m."),
    ] = None,
    grep: Annotated[
        str | None,
        typer.Option("--grep", metavar="PATTERN", help="Only lines with this regular expression."),
    ] = None,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="Print the time of each line, in UTC.")
    ] = False,
) -> None:
    """Print the log of a stage: live from the cluster, or archived after its pods are gone.

    Lines of several processes are merged by time and begin with the rank, such as [3].
    """
    from tuneloop.runs.logs.find import find_log

    printer = LinePrinter(since=since, grep=grep, timestamps=timestamps)
    log = find_log(
        run.artifacts_url,
        run.run_id,
        stage,
        lambda: run.open_backend(cluster),
        rank=rank,
        warn=_warn,
    )
    printer.print(log, log.follow() if follow else log.lines())
    for notice in log.notices():
        _warn(notice)


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


class LinePrinter:
    """Filters lines and writes them to stdout."""

    def __init__(self, *, since: str | None, grep: str | None, timestamps: bool) -> None:
        """Parse the options.

        Raises:
            UsageError: a duration or a regular expression is malformed.
        """
        age = None if since is None else duration_seconds(since)
        self._oldest = 0 if age is None else time.time_ns() - int(age * 1e9)
        try:
            self._pattern = re.compile(grep or "")
        except re.error as e:
            raise UsageError(
                f"--grep {grep}: not a regular expression ({e}); put a backslash before special"
                " characters"
            ) from e
        self._timestamps = timestamps
        self._shown: dict[int, int] = {}

    def print(self, log: StageLog, lines: Iterator[LogLine | None]) -> None:
        """Write lines as they come; None flushes."""
        is_terminal = sys.stdout.isatty()
        for each in lines:
            if each is None:
                _flush()
            elif each.line.stamp >= self._oldest:
                text = visible(each.line.text, is_terminal=is_terminal)
                if self._pattern.search(text):
                    self._announce(log, each)
                    write_data(self._formatted(log, each, text))
        _flush()

    def _announce(self, log: StageLog, each: LogLine) -> None:
        """Name an attempt on stderr before its first line, if the rank has had another one."""
        rank = each.attempt.rank
        if self._shown.get(rank, 1) != each.number:
            _flush()
            who = f"rank {rank}, " if log.ranks > 1 else ""
            typer.echo(f"==> {who}attempt {each.number}, pod {each.attempt.pod} <==", err=True)
        self._shown[rank] = each.number

    def _formatted(self, log: StageLog, each: LogLine, text: str) -> bytes:
        from tuneloop.artifacts.stage_logs.lines import rfc3339

        prefix = f"[{each.attempt.rank}] " if log.ranks > 1 or each.attempt.rank else ""
        stamp = f"{rfc3339(each.line.stamp)} " if self._timestamps else ""
        return f"{prefix}{stamp}{text}\n".encode("utf-8", "replace")


def _flush() -> None:
    sys.stdout.flush()
    stop_if_lost()


def visible(text: bytes, *, is_terminal: bool) -> str:
    """Return a line as text; bytes that are not UTF-8 are replaced.

    On a terminal, a progress bar that overwrites itself is shown in its last state.
    """
    decoded = text.decode("utf-8", "replace").removesuffix("\r")
    if not is_terminal or "\r" not in decoded:
        return decoded
    return next((part for part in reversed(decoded.split("\r")) if part), "")


def duration_seconds(text: str) -> float:
    """Return the seconds of a duration such as 90, 30s, 10m, 1h30m or 2d.

    Raises:
        UsageError: the text is not a duration.
    """
    if not re.fullmatch(r"\d+|(\d+[smhd])+", text):
        raise UsageError(f"--since {text}: expected a duration such as 30s, 10m, 1h30m or 2d")
    parts = re.findall(r"(\d+)([smhd]?)", text)
    return sum(float(number) * _UNITS.get(unit, 1) for number, unit in parts)
