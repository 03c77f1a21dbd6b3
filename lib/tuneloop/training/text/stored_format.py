"""Read the chat format of a stored model, without its weights."""

from __future__ import annotations

from tuneloop.artifacts.model_manifest import TEXT_FILES, ModelManifest
from tuneloop.storage import files, paths
from tuneloop.training.text.chat_format import ChatFormat, load_chat_format
from tuneloop.training.text.layout import Thinking
from tuneloop.training.text.model_tokens import ID_FILES

CHAT_FILES = (*TEXT_FILES, *ID_FILES)
"""Files that `load_chat_format` reads: those of the text, and those that name the ends of text."""


def read_chat_format(
    manifest: ModelManifest, folder: str, *, thinking: Thinking = "plain"
) -> ChatFormat:
    """Read the tokenizer and the chat template of a stored model, verified.

    Args:
        manifest: the model's manifest.
        folder: URL of the folder that holds the manifest.
        thinking: where the reasoning steps of a response go.

    Raises:
        DataError: a file is missing or changed, or the model cannot chat.
        SpecError: `thinking` is `steps`, and the model does not think.
    """
    place = manifest.place or folder
    found = {
        file.name: files.read_verified(
            paths.join(place, file.name),
            expected_bytes=file.size_bytes,
            expected_sha256=file.sha256,
        )
        for file in manifest.files
        if file.name in CHAT_FILES
    }
    return load_chat_format(found, place=place, thinking=thinking)
