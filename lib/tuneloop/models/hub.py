"""The Hugging Face hub; no other module calls huggingface_hub."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneloop.errors import (
    InputMissing,
    PermissionDenied,
    SpecError,
    TuneloopError,
    Unavailable,
)
from tuneloop.http_settings import make_client
from tuneloop.models.sources import HUB, Source
from tuneloop.settings import credentials
from tuneloop.storage import paths

TIMEOUT_SECONDS = 30
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_REPOSITORY = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def open_repository(url: str) -> Source:
    """List the files of a repository at one commit.

    Args:
        url: `hf://org/name`, `hf://org/name@revision`, or the same without `hf://`.

    Raises:
        Unavailable: the hub cannot be reached.
        InputMissing: there is no such repository or revision.
        PermissionDenied: the repository needs a token or an accepted licence.
    """
    repository, revision = parse_hub_url(url)
    with _sentences(url):
        info = _api().model_info(repository, revision=revision, timeout=TIMEOUT_SECONDS)
    names = tuple(
        sorted(each.rfilename for each in info.siblings or () if "/" not in each.rfilename)
    )
    place = f"{HUB}{repository}@{info.sha}"
    return Source(place, names, label=place)


def parse_hub_url(url: str) -> tuple[str, str | None]:
    """Split the URL of a repository into its id and its revision, or None for the default one.

    Raises:
        SpecError: it is not the URL of a repository.
    """
    found = _REPOSITORY.fullmatch(url.removeprefix(HUB).rstrip("/"))
    if found is None:
        raise SpecError(
            f"{url}: expected hf://ORGANIZATION/NAME or hf://ORGANIZATION/NAME@REVISION; correct"
            " the URL"
        )
    return found["id"], found["revision"]


def upload(folder: Path, url: str, message: str) -> str:
    """Upload a folder to a repository in one commit; create the repository, private, if needed.

    Args:
        folder: the files to upload.
        url: URL of the repository.
        message: title of the commit.

    Returns:
        The URL of the repository at the new commit.
    """
    repository, revision = parse_hub_url(url)
    with _sentences(url):
        api = _api()
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, revision=revision, commit_message=message
        )
    return paths.join(f"{HUB}{repository}@{commit.oid}")


def _api() -> Any:
    import httpx
    from huggingface_hub import HfApi, constants

    _check_token()
    # The hub's own client reads the same variables, but does not name one that it cannot use.
    make_client(httpx.URL(constants.ENDPOINT)).close()
    return HfApi(library_name="tuneloop")


def _check_token() -> None:
    """Check the token that the hub's client is going to send.

    Raises:
        UsageError: it cannot be a token; the message names its variable or file.
    """
    from huggingface_hub import constants

    for name in _TOKEN_VARIABLES:
        if credentials.clean(os.environ.get(name), f"environment variable {name}"):
            return  # the client reads the file only without a variable
    credentials.read(Path(constants.HF_TOKEN_PATH))


@contextlib.contextmanager
def _sentences(url: str) -> Iterator[None]:
    """Translate the errors of the hub's client into one sentence."""
    try:
        yield
    except TuneloopError:
        raise
    except Exception as e:
        raise _translated(e, url) or e from e


def _translated(error: Exception, url: str) -> TuneloopError | None:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return PermissionDenied(
            f"{url}: the hub refuses access, because the model is gated; accept its terms on the"
            " hub, then log in with `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        return InputMissing(
            f"{url}: the hub has no such model or revision, or it is private; check the name, or"
            " log in with `hf auth login` or set HF_TOKEN"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return PermissionDenied(
            f"{url}: the hub refuses access ({status}); log in with `hf auth login` or set HF_TOKEN"
        )
    is_no_json = isinstance(error, json.JSONDecodeError)  # the page of a proxy, for example
    if status is not None or isinstance(error, OSError) or is_no_json or _is_of_network(error):
        words = " ".join(str(error).split())[:160] or type(error).__name__
        return Unavailable(
            f"{url}: the hub cannot be reached ({words}); check the network, or copy the model's"
            " folder to this machine or a bucket and add it from there"
        )
    if isinstance(error, errors.HFValidationError):
        return SpecError(f"{url}: {' '.join(str(error).split())}; correct the URL")
    return None


def _is_of_network(error: Exception) -> bool:
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(modules & {"httpx", "httpcore"})
