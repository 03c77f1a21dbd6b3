"""Export: a dataset's traces to training examples.

The work is in `tuneloop.stages`. Run with `python -m jobs.export --spec URL`.
"""

from __future__ import annotations

import sys

from jobs.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
