"""Runnable entry points: `python -m jobs STAGE --spec URL`. Thin; the library does the work."""
