"""Format durations and sizes for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Format seconds like `0.05 s`, `18.6 s`, `3 min 20 s` or `2 h 05 min`."""
    if not 0 <= seconds < 1e9:  # This is also true for NaN.
        return "unknown"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(size_bytes: int) -> str:
    """Format a number of bytes like `812 B`, `33.1 kB` or `1.2 GB`."""
    value, unit = float(size_bytes), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, bigger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
