"""Sample: completions of a model to many prompts, scored and written as traces.

The work is in `tuneloop.stages`. Run with `python -m jobs.sample --spec URL`.
"""

from __future__ import annotations

import sys

from jobs.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
