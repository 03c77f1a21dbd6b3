"""Consoles for tables and progress that show no control characters of stored text."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tuneloop.cli.shared.terminal import CONTROLS, Screen


class SafeConsole(Console):
    """A console that shows U+FFFD in place of each control character, so that widths stay."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render to segments; those that move the cursor for a progress bar are kept."""
        for segment in super().render(renderable, options):
            if segment.control or not CONTROLS.search(segment.text):
                yield segment
            else:
                yield segment._replace(text=CONTROLS.sub("\ufffd", segment.text))


def make_console(*, stderr: bool = False, **settings: Any) -> SafeConsole:
    """Return a console for stdout or stderr; every table and progress line goes through one.

    Args:
        stderr: whether it writes to stderr.
        settings: further settings of rich's console.
    """
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, Screen):  # the console's own sequences pass, and it knows the encoding
        settings["file"] = stream.terminal
    return SafeConsole(stderr=stderr, highlight=False, **settings)
