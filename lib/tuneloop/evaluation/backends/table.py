"""The kinds of servers that can answer the questions of an evaluation; one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuneloop.evaluation.backends.openai import open_openai
from tuneloop.evaluation.backends.schema import Backend
from tuneloop.specs.answer_backend import BackendSpec

BACKENDS: dict[str, Callable[[BackendSpec, Mapping[str, str]], Backend]] = {
    "openai": open_openai,
}
"""`eval.backend.kind` -> opens a server from the spec and the environment variables. Without a
backend, the eval stage generates with JAX itself."""


def open_backend(spec: BackendSpec, env: Mapping[str, str]) -> Backend:
    """Open the server of a spec; no request is sent.

    Raises:
        UsageError: a variable of the environment cannot be used.
    """
    return BACKENDS[spec.kind](spec, env)
