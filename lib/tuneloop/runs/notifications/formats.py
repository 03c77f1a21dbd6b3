"""Bodies of webhook requests; to add a format, write a function and add a row to FORMATS."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from tuneloop.history.units import duration
from tuneloop.runs.notifications.events import Event, NotifiedRun, cloudevent
from tuneloop.specs.integrations.notifications import WebhookFormat

SLACK_CHARACTERS = 3000
"""Maximum length of a cause in a text; Slack shortens texts of more than 4,000 characters."""


@dataclass(frozen=True)
class Format:
    """One format of a webhook."""

    content_type: str
    render: Callable[[Event, NotifiedRun], object]
    """Returns a value for JSON."""

    def body(self, event: Event, run: NotifiedRun) -> bytes:
        """Return the body of a request; non-ASCII characters are escaped."""
        return json.dumps(self.render(event, run), allow_nan=False).encode()


def slack_message(event: Event, run: NotifiedRun) -> dict[str, str]:
    """Return an event as a message with a `text` in Slack's mrkdwn."""
    data = event.data
    what = f"stage {data.stage}" if event.type == "stage_finished" else "run"
    after = f"in {duration(data.seconds)}" if data.seconds else ""
    lines = []
    if event.type == "run_failed":
        where = f" stage {data.stage}" if data.stage else ""
        lines.append(f":x: *{data.run_id}*{where} failed: *{data.state}*")
        lines.append(escape(_cut(data.cause)))
        lines += [f"*Fix:* {escape(_cut(data.fix))}"] if data.fix else []
    else:
        how = "reused" if data.reused else f"finished {after}".strip()
        lines.append(f":white_check_mark: *{data.run_id}* {what} {how}")
    if data.accuracy is not None:
        base, tuned = (100 * value for value in (data.accuracy.base, data.accuracy.tuned))
        lines.append(f"accuracy {base:.1f} % → {tuned:.1f} %")
    lines.append(" · ".join(_link(name, url) for name, url in data.links.items()))
    return {"text": "\n".join(lines)}


def escape(text: str) -> str:
    """Escape the three control characters of Slack's mrkdwn: no text can mention or link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _link(name: str, url: str) -> str:
    """Return a link if a browser can open it, otherwise the URL as a text."""
    if url.startswith(("http://", "https://")):
        return f"<{escape(quote(url, safe=':/?#@!$&*,;=%[]'))}|{name}>"
    return f"{name}: {escape(url)}"


def _cut(text: str) -> str:
    return text if len(text) <= SLACK_CHARACTERS else text[: SLACK_CHARACTERS - 1] + "…"


FORMATS: dict[WebhookFormat, Format] = {
    "cloudevents": Format("application/cloudevents+json; charset=utf-8", cloudevent),
    "slack": Format("application/json; charset=utf-8", slack_message),
}
