"""Compile training steps in a process of their own: one request per line, one answer per line.

`runs/planning/compilation.py` starts this process. An answer is a `CompiledStep`, or
`{"error", "code"}`.
"""

from __future__ import annotations

import json
import sys

from tuneloop.errors import TuneloopError
from tuneloop.specs.training.compilation import CompileRequest


def main() -> None:
    """Answer the requests on stdin."""
    from tuneloop.training.compile.compiled import compile_step

    for line in sys.stdin:
        try:
            answer = compile_step(CompileRequest.model_validate_json(line)).model_dump_json()
        except TuneloopError as e:
            answer = json.dumps({"error": str(e), "code": e.exit_code})
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
