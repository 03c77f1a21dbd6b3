"""Models that a server answers for, in place of the stage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from tuneloop.errors import SpecError
from tuneloop.evaluation.backends.schema import Backend, ServerAnswer, ServerQuestion
from tuneloop.evaluation.backends.table import open_backend
from tuneloop.specs.answer_backend import BackendSpec
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.answering.question import Question
from tuneloop.stages.models.evaluated import EvaluatedModel
from tuneloop.training.conversation import asked_conversation
from tuneloop.training.export.formats import openai_messages
from tuneloop.training.generation.batches import Batch, BatchPlan
from tuneloop.training.text.turns.messages import link_calls

BATCH = 8
"""Questions that are saved together. Servers make batches of their own."""

ServerPrompt = dict[str, list[dict[str, Any]]]
"""`messages` and `tools` in OpenAI's form."""


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
    spec: BackendSpec | None, models: Mapping[str, EvaluatedModel], place: str
) -> Iterator[dict[str, RemoteModel]]:
    """Open the server of a spec.

    Args:
        spec: the server; None if the stage answers for all models.
        models: all models of the stage by name.
        place: key of the spec in the run's spec, for messages.

    Yields:
        Name of a model of the stage -> the model on the server.

    Raises:
        SpecError: the spec names a model that the stage does not have.
    """
    if spec is None:
        yield {}
        return
    unknown = sorted(spec.models.keys() - models.keys())
    if unknown:
        known = ", ".join(models)
        raise SpecError(
            f"{place}.models names the model {unknown[0]!r}, expected one of: {known}; correct the"
            " name"
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


def server_prompt(question: Question, system_instruction: str | None) -> ServerPrompt:
    """Return what a server is asked, as JSON values.

    The instruction of the run comes before the system text of the question, as in training.
    """
    conversation = question.conversation()
    if conversation is None:
        conversation = asked_conversation(question.text, shots=question.shots)
    texts = (system_instruction, conversation.system or None)
    system = "\n\n".join(text for text in texts if text)
    messages = openai_messages(replace(conversation, system=system or UNSET))
    for each in messages:
        each.pop("reasoning_content", None)  # not every server takes it
    link_calls(messages)
    return {
        "messages": messages,
        "tools": [json.loads(bytes(each)) for each in conversation.tools or ()],
    }


def plan_remote(numbers: Sequence[int]) -> BatchPlan:
    """Return batches of questions in their order."""
    starts = range(0, len(numbers), BATCH)
    batches = (Batch(tuple(numbers[at : at + BATCH]), 0) for at in starts)
    return BatchPlan(BATCH, 0, tuple(batches))


def server_question(
    prompt: ServerPrompt,
    max_new_tokens: int,
    temperature: float,
    seed: tuple[int, ...],
) -> ServerQuestion:
    """Return a question to a server.

    Args:
        prompt: what `server_prompt` returned.
        max_new_tokens: tokens of the answer at most.
        temperature: 0 asks for the most probable tokens, and sends no seed.
        seed: numbers from which the seed of the draws is made.
    """
    if temperature == 0:
        return ServerQuestion(prompt["messages"], max_new_tokens, tools=prompt["tools"])
    digest = hashlib.sha256(json.dumps(seed).encode()).digest()
    # Servers take 32 bits with a sign.
    number = int.from_bytes(digest[:4]) & 0x7FFFFFFF
    return ServerQuestion(
        prompt["messages"], max_new_tokens, temperature, number, tools=prompt["tools"]
    )
