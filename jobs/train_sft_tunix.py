"""Train: supervised fine-tuning with Tunix.

The work is in `tuneloop.stages`. Run with `python -m jobs.train_sft_tunix --spec URL`.
"""

from __future__ import annotations

import sys

from jobs.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
