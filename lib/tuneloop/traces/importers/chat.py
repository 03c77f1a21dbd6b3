"""What the importers of chat formats share: messages, calls of tools, and the trace of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuneloop.errors import DataError
from tuneloop.jsonl import parse_value
from tuneloop.traces.conversation import split_reasoning_steps, trace_of_conversation
from tuneloop.traces.importers.text import said_by
from tuneloop.traces.schema import ReasoningTrace
from tuneloop.validation import shorten

Message = dict[str, Any]
MESSAGE_FIELDS = "message_fields"
"""Key of meta: position of a message -> what it has besides the fields of `ChatMessage`."""
TRAILING = "trailing_messages"
"""Key of meta: messages after the last one of the assistant, which has no answer."""
EXTRAS = "tuneloop"
"""Key of an exported record: JSON text with what its format does not hold."""
_FIELDS = ("reward", "labels")
_THOUGHTS = "thoughts"
"""Key of a message that is being read: its reasoning as the pieces that are steps."""
_WHOLE = frozenset({"trace_version", "prompt", "final_answer", "steps"})
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""Role that a file names -> role in a trace; the system message is a field of the trace."""


def without_null(value: Mapping[str, Any]) -> dict[str, Any]:
    """Copy an object without the keys that are null, which tables write for absent values."""
    return {key: each for key, each in value.items() if each is not None}


def parse_text(text: str, where: str) -> Any:
    """Parse JSON text within a record.

    Raises:
        DataError: it is not strict JSON.
    """
    return parse_value(text.encode("utf-8", "surrogatepass"), where)


def objects(value: Any, name: str, place: str) -> list[dict[str, Any]]:
    """Return a list of objects as `as_list` does, each without keys that are null.

    Raises:
        DataError: it is not a list, or an element is not an object.
    """
    found = as_list(value, name, place)
    for each in found:
        if not isinstance(each, dict):
            raise DataError(f"{place}: {name} has {shorten(each)}, expected objects; fix the line")
    return [without_null(each) for each in found]


def as_list(value: Any, name: str, place: str) -> list[Any]:
    """Return a list that may be given as JSON text; null and empty text are no elements.

    Raises:
        DataError: it is neither.
    """
    if isinstance(value, str) and value.strip():
        value = parse_text(value, f"{place}: {name}")
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise DataError(f"{place}: {name} is {shorten(value)}, expected a list; fix the line")
    return value


def chat_message(value: Any, place: str) -> tuple[Message, dict[str, Any]]:
    """Convert one message of the OpenAI form.

    Returns:
        The message in the form of `schema.ChatMessage`, or with the role system; and its other
        keys.

    Raises:
        DataError: the message has an unknown role, or holds what a trace cannot.
    """
    rest = without_null(value) if isinstance(value, dict) else {}
    role = ROLES.get(str(rest.pop("role", None)))
    if role is None:
        raise DataError(
            f"{place}: found {shorten(value)}, expected an object with a role of"
            f" {', '.join(ROLES)}; fix the line"
        )
    try:
        said = said_by(rest, is_assistant=role == "assistant")
        made: Message = {"role": role, "content": said.text}
        if said.thoughts:
            made["reasoning"] = "\n\n".join(said.thoughts)
            made[_THOUGHTS] = said.thoughts
        if role == "assistant" and (calls := _calls(rest)):
            made["tool_calls"] = calls
        if role == "tool":
            made |= {key: rest.pop(key) for key in ("tool_call_id", "name") if key in rest}
    except ValueError as e:
        raise DataError(f"{place}: {e}; fix the line") from e
    return made, rest


def _calls(rest: dict[str, Any]) -> list[Message]:
    listed = rest.pop("tool_calls", [])
    if not isinstance(listed, list):
        raise ValueError(f"has tool_calls of {shorten(listed)}, expected a list")
    if "function_call" in rest:
        listed = [*listed, rest.pop("function_call")]
    return [call_of(each) for each in listed]


def call_of(value: Any) -> Message:
    """Convert one call of a tool: `{"id", "function": {"name", "arguments"}}`, or without function.

    Raises:
        ValueError: it has no name, or other keys.
    """
    rest = without_null(value) if isinstance(value, dict) else {}
    call = without_null(rest.pop("function")) if isinstance(rest.get("function"), dict) else rest
    name, arguments = call.pop("name", None), call.pop("arguments", {})
    kind, identifier = rest.pop("type", "function"), rest.pop("id", None)
    if not isinstance(name, str) or kind != "function" or {**rest, **call}:
        raise ValueError(
            f"has the call {shorten(value)}, expected a function with a name, arguments and an id"
        )
    made = {"name": name, "arguments": json_text(arguments) or "{}"}
    return made if identifier is None else made | {"id": identifier}


def json_text(value: Any) -> str:
    """Return text unchanged, and other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def tool_of(value: Any, place: str) -> dict[str, Any]:
    """Convert the definition of a tool to `{"type": "function", "function": {...}}`.

    Raises:
        DataError: it is no definition of a function.
    """
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        return value
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        rest = dict(value)
        if rest.pop("type", "function") == "function":
            return {"type": "function", "function": rest}
    raise DataError(
        f"{place}: found the tool {shorten(value)}, expected the definition of a function with a"
        " name; fix the line"
    )


def is_trained(key: str, value: Any) -> bool | None:
    """Return whether a model should learn a message, by one of its keys; None if it does not say.

    OpenAI's fine-tuning has `weight`, which is 0 or 1, and Axolotl has `train`.
    """
    if key == "train" and isinstance(value, bool):
        return value
    if key == "weight" and not isinstance(value, bool) and value in (0, 1):
        return bool(value)
    return None


class Chat:
    """A conversation that is being read, and the keys of its record that are left."""

    def __init__(self, record: Mapping[str, Any], place: str) -> None:
        """Start with a record; keys that are null count as absent.

        Args:
            record: the record of the file.
            place: its location for error messages.
        """
        self.rest = without_null(record)
        self.place = place
        self.messages: list[Message] = []
        self._places: list[str] = []
        """Number of each message in the record, where the system message has one too."""
        self._fields: dict[str, Any] = {}
        self.system: str | None = None
        self._read = 0
        self._thoughts: dict[str, tuple[str, ...]] = {}

    def take(self, key: str) -> Any:
        """Take a value out of the record; None if it has none."""
        return self.rest.pop(key, None)

    def take_text(self, key: str) -> str:
        """Take a text out of the record.

        Raises:
            DataError: the record has no such key, or no text there.
        """
        value = self.rest.pop(key, None)
        if not isinstance(value, str):
            found = "is missing" if value is None else f"is {shorten(value)}"
            raise DataError(
                f"{self.place}: {key} {found}, expected text; fix the line, or name the column with"
                f" --columns {key}=NAME"
            )
        return value

    def add(self, listed: Any, read: Callable[[Any, str], tuple[Message, dict[str, Any]]]) -> None:
        """Append messages; the system message may only be the first.

        Args:
            listed: a list of messages.
            read: converts one message, as `chat_message` does.

        Raises:
            DataError: one of them cannot be part of a trace.
        """
        for value in listed:
            where = f"{self.place}: message {self._read + 1}"
            message, rest = read(value, where)
            if (thoughts := message.pop(_THOUGHTS, ())) and len(thoughts) > 1:
                self._thoughts[message["reasoning"]] = thoughts
            if message["role"] == "system":
                self.set_system(message["content"], where, is_first=self._read == 0)
            else:
                self.messages.append(message)
                self._places.append(str(self._read))
            if rest:
                self._fields[str(self._read)] = rest
            self._read += 1

    def set_system(self, text: str, where: str, *, is_first: bool = True) -> None:
        """Set the system message.

        Raises:
            DataError: there is one already, or it is not the first message.
        """
        if self.system is not None or not is_first:
            raise DataError(
                f"{where}: is a second system message, or one after other messages, expected one"
                " at the start; join them, or remove one"
            )
        self.system = text

    def trace(self, tools: Sequence[Any] = ()) -> dict[str, Any]:
        """Build the trace; keys that are left in the record go to meta.

        Args:
            tools: definitions of tools.

        Raises:
            DataError: the messages are no conversation with an answer.
        """
        kept = self._kept()
        answers = [at for at, each in enumerate(self.messages) if each["role"] == "assistant"]
        last = answers[-1] + 1 if answers else len(self.messages)
        if self.messages[last:]:
            self._keep(TRAILING, self.messages[last:])
        self._mark_trained()
        if self._fields:
            self._keep(MESSAGE_FIELDS, self._fields)
        extras = extras_in(self.rest.pop(EXTRAS, None), self.place)
        try:
            trace = trace_of_conversation(
                self.messages[:last],
                system=self.system or None,
                tools=[tool_of(each, self.place) for each in tools] or None,
                meta=self.rest or None,
                **kept,
            )
        except ValueError as e:
            raise DataError(f"{self.place}: the conversation {e}; fix the line") from e
        trace["steps"] = _short_steps(trace["steps"], self._thoughts)
        return {key: each for key, each in {**trace, **extras}.items() if each is not None}

    def _mark_trained(self) -> None:
        """Take out whether the model should learn earlier messages of the assistant.

        What the record says of the last turn stays in meta: steps have no such field.
        """
        answered = [at for at, each in enumerate(self.messages) if each["role"] == "assistant"]
        users = [
            at
            for at, each in enumerate(self.messages[: answered[-1] if answered else 0])
            if each["role"] == "user"
        ]
        for at in (at for at in answered if users and at < users[-1]):
            fields = self._fields.get(self._places[at], {})
            found = {key: is_trained(key, value) for key, value in fields.items()}
            marks = [key for key, value in found.items() if value is not None]
            if len(marks) == 1:  # two could contradict each other
                self.messages[at]["train"] = found[marks[0]]
                del fields[marks[0]]
                if not fields:
                    del self._fields[self._places[at]]

    def _keep(self, key: str, value: Any) -> None:
        if key in self.rest:
            raise DataError(
                f"{self.place}: has the key {key}, which the import writes to meta, expected"
                " another name; rename the key"
            )
        self.rest[key] = value

    def _kept(self) -> dict[str, Any]:
        # A value of CSV is text, and an absent one is empty.
        kept = {key: value for key in _FIELDS if (value := self.rest.pop(key, "")) != ""}
        reward, labels = kept.get("reward"), kept.get("labels")
        if isinstance(labels, str):
            kept["labels"] = parse_text(labels, f"{self.place}: labels")
        if isinstance(reward, str):
            try:
                kept["reward"] = float(reward)
            except ValueError as e:
                raise DataError(
                    f"{self.place}: reward is {shorten(reward)}, expected a number; fix the line,"
                    " or exclude it with --drop reward"
                ) from e
        return kept


def whole_trace(value: Mapping[str, Any], place: str) -> dict[str, Any] | None:
    """Return the trace of a record if its extras hold all of it; else None.

    Raises:
        DataError: the extras are not what `exporters.extras` writes.
    """
    extras = extras_in(value.get(EXTRAS), place)
    return extras if _WHOLE <= extras.keys() else None


def extras_in(value: Any, place: str) -> dict[str, Any]:
    """Parse the extras of an exported record, which are an object or JSON text of one.

    Raises:
        DataError: they are not what `exporters.extras` writes.
    """
    found = parse_text(value, f"{place}: {EXTRAS}") if isinstance(value, str) else value
    if found is None:
        return {}
    if not isinstance(found, dict) or not found.keys() <= ReasoningTrace.model_fields.keys():
        raise DataError(
            f"{place}: {EXTRAS} is {shorten(value)}, expected what `traces export` wrote; exclude"
            f" it with --drop {EXTRAS}"
        )
    return found


def _short_steps(
    steps: list[dict[str, Any]], thoughts: Mapping[str, tuple[str, ...]]
) -> list[dict[str, Any]]:
    """Split reasoning into its pieces, and what is too long for one step at empty lines.

    Steps of reasoning are joined by empty lines again where they become a message.
    """
    short: list[dict[str, Any]] = []
    for step in steps:
        text = step["content"]
        is_reasoning = step["type"] == "reason" and isinstance(text, str)
        pieces = thoughts.get(text, (text,)) if is_reasoning else (text,)
        for piece in pieces:
            parts = split_reasoning_steps(piece) if is_reasoning else [piece]
            short += [{**step, "content": part} for part in parts]
    return [{**step, "i": i} for i, step in enumerate(short)]
