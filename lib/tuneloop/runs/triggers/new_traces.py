"""Count the traces that a store has received since an earlier time."""

from __future__ import annotations

from dataclasses import dataclass

from tuneloop.traces.client import TraceClient

OWN_SOURCES = ("evaluation", "sample")
"""Values of `meta.source` of the traces that the loop itself writes; they are not counted."""


@dataclass(frozen=True)
class NewTraces:
    """The result of a count."""

    count: int
    """Number of new traces; counting ends at the number that is needed."""
    position: str | None
    """Time at which the store received its newest trace; None if there is no new one."""


def count_new(
    client: TraceClient, *, since: str | None, needed: int, source: str | None = None
) -> NewTraces:
    """Count new traces, up to the number that is needed.

    Args:
        client: client of the store.
        since: time from which traces are new; None counts all.
        needed: number at which the count ends.
        source: count only traces with this `meta.source`; None counts all but those of
            `OWN_SOURCES`, because every evaluation would otherwise start the next run.
    """
    newest = next(client.iter_traces(limit=1, created_after=since), None)
    if newest is None:
        return NewTraces(0, None)
    # The newest trace is asked first: what the loop stores meanwhile is after the position.
    position = str(newest["created_at"])
    own = set[str]()
    if source is None:
        for name in OWN_SOURCES:
            own |= {str(e["id"]) for e in client.iter_traces(source=name, created_after=since)}
    count = 0
    for each in client.iter_traces(source=source, created_after=since):
        count += each["id"] not in own and each["created_at"] <= position
        if count >= needed:
            break
    return NewTraces(count, position)
