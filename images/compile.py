"""Compile to bytecode what an image can run: `compile.py FOLDER...`, in the builder stage.

The files never change again, so bytecode is not compared with sources when it is loaded.
"""

from __future__ import annotations

import compileall
import sys
from py_compile import PycInvalidationMode


def main() -> None:
    """Compile all; what cannot be compiled is an error."""
    for folder in sys.argv[1:]:
        if not compileall.compile_dir(
            folder,
            quiet=1,
            workers=0,
            invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
        ):
            sys.exit(f"{folder}: a file cannot be compiled; prune it, or see what it is")


if __name__ == "__main__":
    main()
