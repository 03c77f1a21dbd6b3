"""Read the log of one container in pieces, each line once."""

from __future__ import annotations

from datetime import UTC, datetime

from tuneloop.artifacts.stage_logs.lines import Window, parse_lines
from tuneloop.artifacts.stage_logs.live import Piece
from tuneloop.errors import TuneloopError
from tuneloop.k8s.api import ClusterApi
from tuneloop.k8s.logs.attempts import PodAttempt

LIMIT_BYTES = 4_000_000
"""Maximum bytes of one response, unless one second has more lines than that."""
LONGEST_LIMIT_BYTES = 256_000_000
"""Maximum bytes that are requested to get past one second of the log."""
READS = 16
"""Maximum requests of one call, so that one chatty container does not hold up the others."""


def read_piece(cluster: ClusterApi, source: PodAttempt, window: Window, limit_bytes: int) -> Piece:
    """Send one request for the lines that the window does not have.

    The kubelet returns the lines since a whole second, of its newest log file only. The last line
    of a container that still runs is left out until its end is there.
    """
    since = None if window.since is None else datetime.fromtimestamp(window.since, UTC)
    data = cluster.pod_log(
        source.attempt.pod, since=since, previous=source.is_previous, limit_bytes=limit_bytes
    )
    if data is None:
        return Piece(is_gone=True)
    is_whole = len(data) < limit_bytes
    lines = parse_lines(data, keep_unterminated=is_whole and source.has_ended)
    return Piece(
        lines,
        is_whole=is_whole,
        may_miss_lines=since is not None and bool(lines) and not window.has_any(lines),
    )


def read_new(cluster: ClusterApi, source: PodAttempt, window: Window) -> Piece:
    """Read all new lines of a container, and add them to the window.

    Returns:
        A piece with new lines only. It is not whole if a later request failed.

    Raises:
        TuneloopError: the first request failed; no line was added.
    """
    limit, found = LIMIT_BYTES, Piece()
    for _ in range(READS):
        try:
            piece = read_piece(cluster, source, window, limit)
        except TuneloopError:
            if not found.lines:
                raise
            found.is_whole = False  # the window already has these lines, so they must be returned
            break
        new = window.add(piece.lines)
        found.lines += new
        found.may_miss_lines |= piece.may_miss_lines
        found.is_gone, found.is_whole = piece.is_gone, piece.is_whole
        if piece.is_gone or piece.is_whole:
            break
        if not new:  # all that fits has been read: one second has more lines than the limit
            limit *= 4
            if limit > LONGEST_LIMIT_BYTES:
                window.skip_to((window.since or 0) + 1)
                found.may_miss_lines, limit = True, LIMIT_BYTES
    return found
