"""The log that a stage's process writes to the store: log.txt, and those of earlier attempts.

It has the lines of Python's logging only, and it may be a heartbeat late. It fills what a kubelet
could not serve: a pod was deleted, or its node replaced the log file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tuneloop.artifacts import progress
from tuneloop.storage import files, paths

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
"""Format of stderr and log.txt, which must be equal so that a line is recognized in both."""
_STARTED = re.compile(rb"stage \S+ of \S+, (?:shard \S+, )?attempt (\d{8}T\d{6}-[0-9a-f]{6})")


def started_line(stage: str, run_id: str, shard: str | None, attempt: str) -> str:
    """Return the first line of an attempt, by which its own log is found."""
    of_shard = f", shard {shard}" if shard else ""
    return f"stage {stage} of {run_id}{of_shard}, attempt {attempt}"


def attempt_in(texts: Iterable[bytes]) -> str | None:
    """Return the name that a process gave its attempt, from its log; None if it is not there."""
    found = (_STARTED.search(text) for text in texts)
    return next((each[1].decode() for each in found if each), None)


def keep_earlier_log(stage_prefix: str, log_url: str, progress_url: str, attempt: str) -> None:
    """Copy the log of the attempt before, which this attempt is about to overwrite.

    Args:
        stage_prefix: URL that the stage writes below.
        log_url: URL of the process's log.
        progress_url: URL of the process's heartbeat, which names the attempt that wrote it last.
        attempt: name of this attempt.
    """
    earlier = progress.read_progress_at(progress_url)
    if earlier is None or not earlier.attempt or earlier.attempt == attempt:
        return
    try:
        data = files.read(log_url)
    except FileNotFoundError:
        return
    files.write(_earlier_url(stage_prefix, earlier.attempt), data)


def read_own_log(stage_prefix: str, attempt: str) -> list[bytes]:
    """Return the lines of an attempt's own log; empty if there is none."""
    names = [name for name in files.list_names(stage_prefix) if name.startswith("log")]
    urls = [_earlier_url(stage_prefix, attempt), *(paths.join(stage_prefix, n) for n in names)]
    for url in urls:
        try:
            lines = files.read(url).removesuffix(b"\n").split(b"\n")
        except FileNotFoundError:
            continue
        if attempt_in(lines) == attempt:
            return lines
    return []


def missing_lines(
    own: Sequence[bytes], seen: Sequence[bytes], following: Sequence[bytes] = ()
) -> list[bytes]:
    """Return the lines of a process's own log that were not read.

    Args:
        own: the own log.
        seen: the last lines that were read before the gap.
        following: the lines that were read after the gap; empty if nothing follows.
    """
    places = {text: place for place, text in enumerate(own)}
    start = next((places[text] + 1 for text in reversed(seen) if text in places), None)
    if start is None:
        return []
    stop = next((places[text] for text in following if places.get(text, -1) >= start), None)
    if stop is None and following:
        return []
    return list(own[start:stop])


def _earlier_url(stage_prefix: str, attempt: str) -> str:
    return paths.join(stage_prefix, "attempts", attempt, "log.txt")
