"""When an event was seen: controllers fill different fields."""

from __future__ import annotations

from datetime import UTC, datetime

from tuneloop.k8s.api import Object

NEVER = datetime.min.replace(tzinfo=UTC)
"""Time of an event without a valid timestamp."""


def event_time(event: Object) -> datetime:
    """Return when an event was last seen, or NEVER.

    The scheduler, JobSet and Kueue fill only `eventTime`, the other controllers `lastTimestamp`.
    """
    series = event.get("series")
    metadata = event.get("metadata")
    for value in (
        series.get("lastObservedTime") if isinstance(series, dict) else None,
        event.get("lastTimestamp"),
        event.get("eventTime"),
        metadata.get("creationTimestamp") if isinstance(metadata, dict) else None,
    ):
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            continue
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return NEVER
