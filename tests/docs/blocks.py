"""The shell blocks of a page of docs/."""

from __future__ import annotations

import re
from pathlib import Path

from tests.builders import REPOSITORY


def shell_blocks(name: str) -> list[str]:
    """What stands in ```sh fences of a page, in order."""
    text = Path(REPOSITORY / "docs" / name).read_text("utf-8")
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
