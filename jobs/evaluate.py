"""Evaluate: base against tuned model on an eval set.

The work is in `tuneloop.stages`. Run with `python -m jobs.evaluate --spec URL`.
"""

from __future__ import annotations

import sys

from jobs.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
