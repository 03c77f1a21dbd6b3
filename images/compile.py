"""Compile the Python files of an image to bytecode, in the builder stage: `compile.py FOLDER...`.

The files never change afterwards, so Python does not compare the bytecode with the sources.
"""

from __future__ import annotations

import compileall
import sys
from py_compile import PycInvalidationMode


def main() -> None:
    """Compile all files; exit with an error if one cannot be compiled."""
    for folder in sys.argv[1:]:
        if not compileall.compile_dir(
            folder,
            quiet=1,
            workers=0,
            invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
        ):
            sys.exit(
                f"{folder}: a file cannot be compiled; fix it, or remove it in images/prune.py"
            )


if __name__ == "__main__":
    main()
