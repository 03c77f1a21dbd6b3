"""Find where a text states its answer: outside of reasoning, in a box, or after a mark."""

from __future__ import annotations

import re

_OPEN = r"<(?:think|thinking|thought|reasoning|\|channel>thought|\|channel\|>analysis)\b[^<>]*>?"
_CLOSE = r"</(?:think|thinking|thought|reasoning)>|<channel\|>"
_BLOCKS = re.compile(rf"(?P<close>{_CLOSE})|(?P<open>{_OPEN})")
_HEADING = "Reasoning:\n"
_ANSWER_LINE = re.compile("^Answer:", re.MULTILINE)
_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s?\{)|\\[{}]|(?P<open>\{)|(?P<close>\})")
_WORDS = (
    r"(?:final |correct |right |best )?(?:answer|solution|result)\b"
    r"(?: to (?:the|your|this) \w{1,20}(?: \w{1,20})?)?|(?:correct|right|best) (?:option|choice)"
    r"|antwort|réponse|respuesta|risposta|resposta|ответ|答案|答え"
)
_MARK = re.compile(
    rf"(?:(?<!\w)(?:{_WORDS})[*_]{{0,2}}\s?(?:(?:is|was|ist|est|es)\b\s?:?|[:：=])|####)[*_]{{0,2}}\s?",
    re.IGNORECASE,
)


def without_reasoning(text: str) -> str:
    """Remove the reasoning blocks of a thinking model.

    A block that is not closed reaches to the end, and a block that is not opened begins with the
    text, because many chat templates write the opening mark themselves. An opening mark counts
    only at the start of a line: a mark inside a sentence is content.
    """
    if "<" not in text:
        return text
    kept: list[str] = []
    position, opened = 0, False
    for found in _BLOCKS.finditer(text):
        if found["close"]:
            if not opened:
                kept.clear()  # a block that the chat template opened
            position, opened = found.end(), False
        elif not opened and _begins_line(text, found.start()):
            kept.append(text[position : found.start()])
            opened = True
    if not opened:
        kept.append(text[position:])
    return "".join(kept)


def _begins_line(text: str, position: int) -> bool:
    return position == 0 or text[position - 1] == "\n"


def after_reasoning(text: str) -> str:
    """Return the part of a text after the steps that a prompt template asks for.

    Under the heading `Reasoning:` the steps reach to the last line that begins with `Answer:`, and
    without one to the last blank line.
    """
    if not text.startswith(_HEADING):
        return text
    answers = list(_ANSWER_LINE.finditer(text))
    if answers:
        return text[answers[-1].start() :]
    _, blank, rest = text.rpartition("\n\n")
    return rest if blank else ""


def whole_answer(text: str) -> str | None:
    """Return a response without its reasoning, as the answer of a chat; None if nothing is left."""
    rest = after_reasoning(without_reasoning(text))
    if text.startswith(_HEADING):
        rest = rest.removeprefix("Answer:")
    return rest.strip() or None


def boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` that is closed; None without one."""
    if "\\" not in text:
        return None
    last = None
    opened: list[int] = []  # where boxes begin; -1 for other braces
    for found in _BRACES.finditer(text):
        if found["box"] or found["open"]:
            opened.append(found.end() if found["box"] else -1)
        elif found["close"] and opened and (start := opened.pop()) >= 0:
            last = text[start : found.start()]
    return last


def after_mark(text: str) -> str | None:
    """Return the rest of the line after the last `answer is`, `Answer:` or `####`.

    If nothing follows the mark on its line, the next line that is not blank counts.
    """
    marks = list(_MARK.finditer(text))
    if not marks:
        return None
    last = marks[-1]
    rest = text[last.end() :].strip()
    return rest.partition("\n")[0].strip() or None


def marked(text: str) -> str | None:
    """Return what a text marks as its answer: the last closed box, else the text after a mark."""
    found = boxed(text)
    return after_mark(text) if found is None else found


def last_line(text: str) -> str | None:
    """Return the last line that is not blank; None if all are."""
    return text.rstrip().rpartition("\n")[2].strip() or None


def fenced(text: str) -> str:
    """Return the content of the last Markdown code block that is closed; the text without one."""
    if "```" not in text:
        return text
    block: str | None = None
    lines: list[str] | None = None
    for line in text.split("\n"):
        if not line.lstrip(" \t").startswith("```"):
            if lines is not None:
                lines.append(line)
        elif lines is None:
            lines = []
        elif line.strip() == "```":
            block, lines = "\n".join(lines), None
    return text if block is None else block
