"""The manifest of a token file: the encoded examples of a set, stored once for all runs."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop import jsonl
from tuneloop.artifacts.records import OutputFile
from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import Sealed, sealed
from tuneloop.validation import first_error


class TokenManifest(Sealed, BaseModel):
    """A token file: its arrays, and statistics of the examples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1"] = "1"
    files: tuple[OutputFile, ...]
    """One file per array; the paths are relative to the folder of the manifest."""
    examples: int
    """Encoded rows: one per example, or several of a conversation with messages that the chat
    template rewrites later."""
    tokens: int
    """Tokens of all examples."""
    trained_tokens: int
    """Tokens that the loss covers."""
    longest_tokens: int
    """Tokens of the longest example."""
    longest_response_tokens: int
    """Tokens of the longest response or message, closing turn mark included."""

    @property
    def digest(self) -> str:
        """sha256 of the digests of all arrays, wherever they are stored."""
        lines = "".join(f"{file.name} {file.sha256}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()


def token_manifest_url(folder: str) -> str:
    """Return the URL of the manifest in the folder of a token file."""
    return paths.join(folder, "manifest.json")


def read_token_manifest(folder: str) -> TokenManifest | None:
    """Read the manifest of a token file; None if the file does not exist or is unfinished.

    Raises:
        DataError: the manifest is broken.
    """
    url = token_manifest_url(folder)
    try:
        return TokenManifest.model_validate_json(files.read(url))
    except FileNotFoundError:
        return None
    except ValidationError as e:
        raise DataError(
            f"{url}: {first_error(e)}; delete {folder} and run again, which encodes the examples"
            " again"
        ) from e


def publish_token_manifest(manifest: TokenManifest, folder: str) -> bool:
    """Write the manifest, create-only; returns false if another process was first."""
    data = jsonl.dump_line(sealed(manifest.model_dump(mode="json")))
    return files.publish(token_manifest_url(folder), data)
