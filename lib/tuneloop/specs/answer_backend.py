"""The server that answers questions in place of the eval stage or the sample stage."""

from __future__ import annotations

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from tuneloop.specs.base import Spec


class BackendSpec(Spec):
    """A server that generates the answers of some models, such as vLLM beside the run.

    It fits models that are too large or too slow for the stage. The server's own chat template
    makes the prompt. The stage cannot know which weights the server has: it records the names and
    the version that the server reports.
    """

    kind: Literal["openai"]
    """Protocol of the server: `POST URL/chat/completions`, as OpenAI, vLLM, SGLang, Ollama and
    llama.cpp have it."""
    url: str
    """Base URL such as `http://vllm:8000/v1`, without credentials. The stage reads an API key from
    the variable TUNELOOP_EVAL_API_KEY, or from the file that TUNELOOP_EVAL_API_KEY_FILE names."""
    models: dict[str, str] = Field(min_length=1, max_length=100)
    """Name of a model in the evaluation, such as `base` or `tuned`, or `model` in a sampling run ->
    its name on the server. The stage itself answers for models that are not listed."""
    concurrency: int = Field(default=16, ge=1, le=512)
    """Requests in flight from each process of the stage."""
    reply_seconds: float = Field(default=600, gt=0, le=86_400)
    """Time limit of one reply."""
    retry_seconds: float = Field(default=300, ge=0, le=86_400)
    """Time for which a request is repeated that failed with status 408, 425, 429 or 5xx, with a
    broken connection or with a reply that cannot be read."""
    limit_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Key of a request that limits the tokens of the answer; newer models of OpenAI accept only
    `max_completion_tokens`."""

    @model_validator(mode="after")
    def _has_a_public_url(self) -> Self:
        # The messages are without the URL, which may hold a secret.
        try:
            found = urlsplit(self.url)
            is_http = found.scheme in ("http", "https") and bool(found.hostname)
        except ValueError:
            is_http = False
        if not is_http:
            raise ValueError("url: expected an http or https URL with a host")
        if found.username or found.password or found.query or found.fragment:
            raise ValueError(
                "url holds a credential (a user name, a password or a query), expected none,"
                " because the spec is stored with the run; set TUNELOOP_EVAL_API_KEY"
            )
        return self
