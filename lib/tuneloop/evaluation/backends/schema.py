"""What a server is asked and what it answers, in any protocol."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class ServerQuestion:
    """One conversation that a model continues."""

    messages: Sequence[Mapping[str, Any]]
    """Messages in OpenAI's form: `role` and `content`, and the keys of calls and their results."""
    max_new_tokens: int
    temperature: float = 0.0
    """0 asks for the most probable token each time."""
    seed: int | None = None
    """Seed of the draws, from 0 to 2^31 - 1; None sends none."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Definitions of tools in OpenAI's form; empty sends none."""


@dataclass(frozen=True)
class ServerAnswer:
    """The answer of a model on a server."""

    text: str
    tokens: int | None
    """Generated tokens; None if the server does not report them."""
    hit_limit: bool
    """Whether the server stopped at the maximum number of tokens."""


class Backend(Protocol):
    """A server that answers for one or more models."""

    def ask(
        self, model: str, questions: Iterable[ServerQuestion]
    ) -> Generator[ServerAnswer, None, None]:
        """Yield the answers in the order of the questions; several are asked at once.

        Args:
            model: name of the model on the server.
            questions: what to ask.
        """

    def describe(self) -> str:
        """Return address, software and version as the server reports them, on one line."""

    def close(self) -> None:
        """Close the connections."""
