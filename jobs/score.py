"""Score: the final answers of stored traces, judged by a scorer of evaluations.

The work is in `tuneloop.stages`. Run with `python -m jobs.score --spec URL`.
"""

from __future__ import annotations

import sys

from jobs.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
