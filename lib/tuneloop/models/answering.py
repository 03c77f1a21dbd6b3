"""Ask one model: open it from any folder, and answer the last turn of a conversation.

JAX is imported when a model is opened, and not with this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tuneloop.artifacts.model_manifest import ModelManifest
from tuneloop.errors import DataError
from tuneloop.models.selection import CONFIG, INDEX, small_names, weight_names
from tuneloop.models.sources import open_source
from tuneloop.models.weights import check_weights
from tuneloop.specs.training.architecture import Architecture
from tuneloop.storage import files
from tuneloop.training.text.chat_format import ChatFormat, load_chat_format

if TYPE_CHECKING:
    from tuneloop.training.generation.generator import Generator

Turns = Sequence[tuple[str, str]]
"""Earlier turns of a conversation as (user text, answer)."""


@dataclass(frozen=True)
class Settings:
    """How a model is asked."""

    system: str | None = None
    """System instruction; None gives none, so that a template may write its own."""
    max_new_tokens: int = 256
    """Tokens of an answer at most."""
    temperature: float = 0.0
    """0 takes the most probable token each time."""
    top_p: float = 1.0
    """Draw only from the most probable tokens that together have this probability."""
    seed: int = 0
    """Seed of the draws."""


@dataclass(frozen=True)
class Answer:
    """An answer of a model."""

    text: str
    prompt_tokens: int
    tokens: int
    """Tokens of the answer."""
    hit_limit: bool
    """Whether the answer was cut at `max_new_tokens`."""
    forgotten: int
    """Earlier turns that were left out because the conversation is too long for the model."""


@dataclass(frozen=True)
class OpenedModel:
    """A model in memory, with its tokenizer and chat template."""

    model: Any
    architecture: Architecture
    chat_format: ChatFormat


def open_model(
    folder: str, manifest: ModelManifest | None, thinking: Literal["steps", "plain"] = "plain"
) -> OpenedModel:
    """Load a model with the number format of its files.

    Args:
        folder: URL of a model's folder.
        manifest: its manifest, whose digests are checked; None for a folder without one.
        thinking: whether the model thinks before it answers.

    Raises:
        InputMissing: there is nothing.
        DataError: the model is broken or cannot chat, or its family is unknown.
        SpecError: `thinking` is `steps`, and the model does not think.
    """
    if manifest is None:
        return _open_plain(folder, thinking)
    from tuneloop.training.models.stored import load_stored_model

    found = load_stored_model(folder, manifest=manifest, thinking=thinking)
    return OpenedModel(found.model, found.architecture, found.chat_format)


def _open_plain(folder: str, thinking: Literal["steps", "plain"]) -> OpenedModel:
    """Load a model from a folder in Hugging Face layout that has no manifest."""
    from tuneloop.training.models.hf_layout import open_folder
    from tuneloop.training.models.loading import load_model

    source = open_source(folder)
    names = small_names(source.names, source.url)
    contents = {name: files.read(source.file_url(name)) for name in names}
    weights = weight_names(source.names, contents.get(INDEX), source.url)
    architecture = check_weights(source, weights, contents[CONFIG]).architecture
    chat_format = load_chat_format(contents, place=source.url, thinking=thinking)
    index = [INDEX] if INDEX in contents else []
    model = load_model(open_folder(source.url, [*weights, *index]), architecture)
    return OpenedModel(model, architecture, chat_format)


class Answerer:
    """Answers with one model; prompts of similar lengths share a compilation."""

    def __init__(self, opened: OpenedModel, settings: Settings) -> None:
        """Keep the model; nothing is compiled before the first answer."""
        self._opened, self._settings = opened, settings
        self._generator: Generator | None = None

    def ask(self, prompt: str, history: Turns = ()) -> Answer:
        """Answer a prompt.

        Args:
            prompt: user text.
            history: earlier turns. The oldest ones are left out if the model's context is too
                short for all.

        Raises:
            DataError: the prompt alone is too long for the model.
        """
        from tuneloop.training.generation.decoding import Sampling

        settings, chat_format = self._settings, self._opened.chat_format
        forgotten, ids = 0, self._encode(prompt, history)
        while self._is_too_long(ids) and forgotten < len(history):
            forgotten += 1
            ids = self._encode(prompt, history[forgotten:])
        if self._is_too_long(ids):
            raise DataError(
                f"the prompt has {len(ids)} tokens and the answer up to {settings.max_new_tokens},"
                f" expected at most {self._opened.architecture.max_positions} together, as the"
                " model was trained for; shorten the prompt or lower --max-new-tokens"
            )
        generator = self._generator = self._generator or self._build_generator()
        sampling = Sampling(settings.temperature, settings.top_p, settings.seed)
        new = generator.generate([ids], generator.plan([ids]), sampling=sampling)[0]
        known = [each for each in new.ids if each < chat_format.tokenizer.vocab_size]
        return Answer(
            chat_format.decode_response(known), len(ids), len(new.ids), new.hit_limit, forgotten
        )

    def _encode(self, prompt: str, history: Turns) -> list[int]:
        return self._opened.chat_format.encode_prompt(prompt, self._settings.system, history)

    def _is_too_long(self, ids: list[int]) -> bool:
        most = self._opened.architecture.max_positions
        return len(ids) + self._settings.max_new_tokens > most

    def _build_generator(self) -> Generator:
        from tuneloop.training.generation.generator import Generator

        return Generator(
            self._opened.model,
            self._opened.architecture,
            stop_ids=self._opened.chat_format.stop_ids,
            batch_size=1,
            max_new_tokens=self._settings.max_new_tokens,
        )
