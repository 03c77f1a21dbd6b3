"""Import: the eval traces of both models into the trace store.

The work is in `tuneloop.stages`. Run with `python -m jobs.import_traces --spec URL`.
"""

from __future__ import annotations

import sys

from jobs.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["import", *sys.argv[1:]]))
