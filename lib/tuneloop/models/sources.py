"""Where a model is added from: a folder at any URL, a repository of the hub, or a GGUF file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.storage import files, paths

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
HUB = "hf://"


@dataclass(frozen=True)
class Source:
    """A folder with a model's files."""

    url: str
    """URL of the folder, which fsspec opens."""
    names: tuple[str, ...]
    """Names of the files directly in the folder."""
    label: str
    """The place as the manifest states it; for a hub repository with its commit."""

    @property
    def is_hub(self) -> bool:
        """Whether the files are on the Hugging Face hub."""
        return self.url.startswith(HUB)

    def file_url(self, name: str) -> str:
        """Return the URL of a file."""
        return paths.join(self.url, name)


def open_source(url: str) -> Source:
    """List the files of a model's folder.

    Args:
        url: a local folder, a URL of any protocol that fsspec knows, or a hub id such as
            `org/name`; a local folder of this name comes first.

    Raises:
        InputMissing: there are no files.
        DataError: it is a file.
        Unavailable: the hub cannot be reached.
        PermissionDenied: the repository needs a token.
        SpecError: the URL holds credentials.
    """
    if is_hub_url(url):
        from tuneloop.models.hub import open_repository

        return open_repository(url)
    refuse_credentials(url)
    url = paths.absolute(url)
    if files.exists(url):
        raise DataError(
            f"{url}: is a file, expected a folder in Hugging Face layout or a GGUF file; give the"
            " folder that holds it"
        )
    names = tuple(files.list_names(url))
    if not names:
        raise InputMissing(
            f"{url}: found no files, expected a folder with a model in Hugging Face layout; check"
            " the URL"
        )
    return Source(url, names, label=url)


def is_hub_url(url: str) -> bool:
    """Return whether a model is to be read from the hub."""
    if url.startswith(HUB):
        return True
    return _HUB_ID.fullmatch(url) is not None and not Path(url).exists()


def is_gguf(url: str) -> bool:
    """Return whether a URL names one GGUF file."""
    return url.lower().endswith(".gguf")


def refuse_credentials(url: str) -> None:
    """Refuse a URL with a password: it is copied into the model's manifest."""
    if urlsplit(url).password is not None:
        raise SpecError(
            "the model's URL: holds a password before the @, expected none, because the manifest"
            " states the source; use the object store's own credentials"
        )
