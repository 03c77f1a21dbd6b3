"""The text that a model generated for one question, and the file form of a batch of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Generation:
    """The text that a model generated for one item."""

    text: str
    """Generated text, without the stop token."""
    tokens: int
    """Generated tokens, without the stop token."""
    hit_limit: bool
    """Whether generation reached its maximum number of tokens before a stop token."""
