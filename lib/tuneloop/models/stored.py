"""List stored models, and verify that their files are what their manifests state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tuneloop.artifacts.layout import alias_prefix
from tuneloop.artifacts.model_manifest import (
    MANIFEST,
    ModelManifest,
    load_model_manifest,
    weights_digest,
)
from tuneloop.errors import DataError, InputMissing
from tuneloop.models import describe
from tuneloop.storage import files, paths


@dataclass(frozen=True)
class ListedModel:
    """One folder under `<artifacts>/models/`."""

    name: str
    manifest: ModelManifest | None
    """The model's manifest; None if it cannot be read."""
    problem: str = ""
    """Why the manifest cannot be read; empty if it can."""


def list_models(artifacts: str) -> list[ListedModel]:
    """List the stored models by name; an unfinished or broken one is listed with its problem.

    Aliases, which have folders there too, are not among them; see `artifacts.aliases`.
    """
    names = files.list_folders(paths.join(artifacts, "models"))
    listed = (_listed(artifacts, name) for name in names)
    return [each for each in listed if each is not None]


def _listed(artifacts: str, name: str) -> ListedModel | None:
    try:
        return ListedModel(name, load_model_manifest(paths.join(artifacts, "models", name)))
    except InputMissing:
        if files.list_names(alias_prefix(artifacts, name)):
            return None
        return ListedModel(name, None, f"unfinished, has no {MANIFEST}; add it again")
    except DataError as e:
        return ListedModel(name, None, str(e))


def files_folder(manifest: ModelManifest, folder: str) -> str:
    """Return the URL of the folder with a model's files.

    Args:
        manifest: the model's manifest.
        folder: the folder of the manifest.
    """
    return manifest.place or folder


def verify_files(
    manifest: ModelManifest, folder: str, progress: Callable[[int, int], None]
) -> Iterator[str]:
    """Read every file of a model and yield a sentence for each that is not as recorded.

    Args:
        manifest: the model's manifest.
        folder: the folder of the manifest.
        progress: called with the bytes that were read and the bytes of all files.
    """
    place, done = files_folder(manifest, folder), 0
    total = sum(each.size_bytes for each in manifest.files)
    for file in manifest.files:
        try:
            count = 0
            for block in files.iter_verified(
                paths.join(place, file.name), file.size_bytes, file.sha256
            ):
                count += len(block)
                progress(done + count, total)
        except DataError as e:
            yield str(e)
        done += file.size_bytes
    url = paths.join(folder, MANIFEST)
    if manifest.weights_sha256 != weights_digest(manifest.weight_files):
        yield f"{url}: weights_sha256 is not the digest of the files; add the model again"
    digests = {each.name: each.sha256 for each in manifest.files}
    tokenizer = next((digests[name] for name in describe.TOKENIZERS if name in digests), None)
    if manifest.tokenizer_sha256 != tokenizer:
        yield f"{url}: tokenizer_sha256 is not the digest of the tokenizer; add the model again"
