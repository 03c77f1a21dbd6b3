"""Models that a server answers for, in place of the eval stage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tuneloop.errors import SpecError
from tuneloop.evaluation.backends.schema import Backend, ServerAnswer, ServerQuestion
from tuneloop.evaluation.backends.table import open_backend
from tuneloop.specs.answer_backend import BackendSpec
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.models.evaluated import EvaluatedModel
from tuneloop.training.generation.batches import Batch, BatchPlan

BATCH = 8
"""Questions that are saved together. Servers make batches of their own."""

Shots = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class RemoteModel:
    """One model on a server."""

    backend: Backend
    name: str
    """Name of the model on the server."""
    count_tokens: Callable[[str], int]
    """Counts the tokens of an answer if the server does not."""

    def generation(self, answer: ServerAnswer) -> Generation:
        """Return an answer as the stage keeps it."""
        tokens = self.count_tokens(answer.text) if answer.tokens is None else answer.tokens
        return Generation(answer.text, tokens, hit_limit=answer.hit_limit)


@contextmanager
def opened(
    spec: BackendSpec | None, models: Mapping[str, EvaluatedModel]
) -> Iterator[dict[str, RemoteModel]]:
    """Open the server of a spec.

    Args:
        spec: the server; None if the stage answers for all models.
        models: all models of the evaluation by name.

    Yields:
        Name of a model of the evaluation -> the model on the server.

    Raises:
        SpecError: the spec names a model that the evaluation does not have.
    """
    if spec is None:
        yield {}
        return
    unknown = sorted(spec.models.keys() - models.keys())
    if unknown:
        known = ", ".join(models)
        raise SpecError(
            f"eval.backend.models names the model {unknown[0]!r}, expected one of: {known}; correct"
            " the name"
        )
    backend = open_backend(spec, os.environ)
    try:
        yield {
            name: RemoteModel(backend, served, _counter(models[name]))
            for name, served in spec.models.items()
        }
    finally:
        backend.close()


def _counter(model: EvaluatedModel) -> Callable[[str], int]:
    tokenizer = model.chat_format.tokenizer
    return lambda text: len(tokenizer.encode(text))


def describe(spec: BackendSpec) -> dict[str, str]:
    """Return the name of each model that a server answers for, with where that is, on one line."""
    backend = open_backend(spec, os.environ)
    try:
        place = backend.describe()
    finally:
        backend.close()
    return {name: f"{served} at {place}" for name, served in spec.models.items()}


def messages(text: str, system: str | None, shots: Shots) -> tuple[tuple[str, str], ...]:
    """Return the conversation that asks a question, as (role, text)."""
    found = [("system", system)] if system else []
    for prompt, response in shots:
        found += [("user", prompt), ("assistant", response)]
    return (*found, ("user", text))


def plan_remote(numbers: Sequence[int]) -> BatchPlan:
    """Return batches of questions in their order."""
    starts = range(0, len(numbers), BATCH)
    batches = (Batch(tuple(numbers[at : at + BATCH]), 0) for at in starts)
    return BatchPlan(BATCH, 0, tuple(batches))


def server_question(
    conversation: tuple[tuple[str, str], ...],
    max_new_tokens: int,
    temperature: float,
    seed: tuple[int, ...],
) -> ServerQuestion:
    """Return a question to a server.

    Args:
        conversation: what `messages` returned.
        max_new_tokens: tokens of the answer at most.
        temperature: 0 asks for the most probable tokens, and sends no seed.
        seed: numbers from which the seed of the draws is made.
    """
    if temperature == 0:
        return ServerQuestion(conversation, max_new_tokens)
    digest = hashlib.sha256(json.dumps(seed).encode()).digest()
    # Servers take 32 bits with a sign.
    number = int.from_bytes(digest[:4]) & 0x7FFFFFFF
    return ServerQuestion(conversation, max_new_tokens, temperature, number)
