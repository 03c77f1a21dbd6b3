"""Store a model: check its files, copy them below the artifacts, and publish its manifest last.

A folder without a manifest is unfinished, and nobody reads it; adding the model again overwrites
it. A model that has a manifest never changes.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuneloop.artifacts.aliases import read_current
from tuneloop.artifacts.model_manifest import (
    MANIFEST,
    ModelFile,
    ModelManifest,
    dump_model_manifest,
    load_model_manifest,
    model_prefix,
    parse_model_manifest,
    weights_digest,
)
from tuneloop.errors import DataError, InputMissing, UsageError
from tuneloop.models import describe, selection
from tuneloop.models.sources import Source, is_gguf, is_hub_url, open_source, refuse_credentials
from tuneloop.models.tokens import check_tokenizer, template_digest
from tuneloop.models.weights import check_weights, convert_gguf
from tuneloop.storage import files, paths

NAME = re.compile(r"[a-z]([-.a-z0-9]{0,61}[a-z0-9])?")
"""Same pattern as `ModelName` of the run spec."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are stored and the bytes of all files."""


@dataclass(frozen=True)
class Request:
    """What to add, and how."""

    name: str
    url: str
    artifacts: str
    in_place: bool = False
    """Keep the files where they are; the manifest states their place."""
    licence: str | None = None
    """Licence to state, in place of the one that the files state."""
    dtype: str = "float32"
    """Dtype of the weights that are read from a GGUF file."""


def add_model(request: Request, progress: Progress = lambda done, total: None) -> ModelManifest:
    """Store a model and publish its manifest.

    Args:
        request: the model's name, where it is, and where to store it.
        progress: called while files are read.

    Returns:
        The published manifest. If a model of this name with the same content is stored already,
        that is its manifest.

    Raises:
        UsageError: the name is not valid, or another model has it.
        DataError: a file is missing or broken, or a tensor is missing, unknown or has another
            shape than config.json says.
        InputMissing: there is nothing at the URL.
    """
    check_name(request.name)
    if read_current(request.artifacts, request.name) is not None:
        raise UsageError(
            f"model name {request.name!r}: is an alias, expected another name; look at"
            f" `tuneloop models show {request.name}`"
        )
    if is_gguf(request.url):
        return _add_gguf(request, progress)
    if request.in_place and is_hub_url(request.url):
        raise UsageError(
            f"--in-place: {request.url} is on the hub, expected a folder that stays as it is; add"
            " it without --in-place"
        )
    return _add_folder(request, open_source(request.url), progress)


def check_name(name: str) -> None:
    """Raise UsageError if a text cannot be the name of a model."""
    if NAME.fullmatch(name) is None:
        raise UsageError(
            f"model name {name!r}: expected up to 63 lower-case letters, digits, dashes and dots,"
            " starting with a letter; choose another name"
        )


def _add_gguf(request: Request, progress: Progress) -> ModelManifest:
    """Convert a GGUF file to a folder in Hugging Face layout, and add that."""
    if request.in_place:
        raise UsageError(
            f"--in-place: {request.url} is a GGUF file, which is converted to Hugging Face layout;"
            " add it without --in-place"
        )
    refuse_credentials(request.url)
    label = paths.absolute(request.url)
    with tempfile.TemporaryDirectory(prefix="tuneloop-gguf-") as folder:
        local = _local_copy(label, Path(folder) / "source.gguf")
        converted = Path(folder) / "model"
        names = convert_gguf(local, converted, request.dtype, label)
        return _add_folder(request, Source(str(converted), names, label), progress)


def _local_copy(url: str, path: Path) -> Path:
    """Return the local path of a file, which is copied to `path` from anywhere else."""
    if "://" not in url:
        if not Path(url).is_file():
            raise InputMissing(f"{url}: missing, expected a GGUF file; check the path")
        return Path(url)
    try:
        with path.open("wb") as file:
            for block in files.iter_blocks(url):
                file.write(block)
    except FileNotFoundError as e:
        raise InputMissing(f"{url}: missing, expected a GGUF file; check the URL") from e
    return path


def _add_folder(request: Request, source: Source, progress: Progress) -> ModelManifest:
    place = source.label
    names = selection.small_names(source.names, place)
    contents = {name: _read(source, name) for name in names}
    weights = selection.weight_names(source.names, contents.get(selection.INDEX), place)
    if weights == [selection.SINGLE]:
        contents.pop(selection.INDEX, None)
    checked = check_weights(source, weights, contents[selection.CONFIG])
    check_tokenizer(contents, checked.architecture.vocab_size, place)
    folder = model_prefix(request.artifacts, request.name)
    with files.exclusive(f"{folder}.lock", lambda: False):
        existing = _existing(folder)
        is_copy = existing is None and not request.in_place
        stored = _store(source, contents, weights, folder if is_copy else None, progress)
        found = [each for each in stored if each.name in weights]
        manifest = ModelManifest(
            name=request.name,
            architecture=checked.architecture,
            dtype=checked.dtype,
            parameters=checked.parameters,
            files=tuple(sorted(stored, key=lambda each: each.name)),
            place=source.url if request.in_place else None,
            weights_sha256=weights_digest(tuple(sorted(found, key=lambda each: each.name))),
            tokenizer_sha256=describe.tokenizer_digest(contents),
            chat_template_sha256=template_digest(contents, place),
            licence=request.licence or describe.find_licence(contents),
            source=source.label,
        )
        published = _publish(manifest, existing, folder, request)
        _repair(published, source, folder)
        return published


def _read(source: Source, name: str) -> bytes:
    try:
        return files.read(source.file_url(name))
    except FileNotFoundError as e:
        raise DataError(
            f"{source.file_url(name)}: is listed, but missing; download the model again"
        ) from e


def _existing(folder: str) -> ModelManifest | None:
    try:
        return load_model_manifest(folder)
    except InputMissing:
        return None


def _store(
    source: Source,
    contents: dict[str, bytes],
    weights: list[str],
    folder: str | None,
    progress: Progress,
) -> list[ModelFile]:
    """Digest every file, and copy it if a folder is given."""
    sizes = {name: len(data) for name, data in contents.items()}
    sizes |= {name: _size(source, name) for name in weights}
    done, total, stored = 0, sum(sizes.values()), []
    for name, size in sizes.items():
        blocks = iter((contents[name],)) if name in contents else _blocks(source, name)
        target = paths.join(folder, name) if folder else None
        stored.append(_copy(name, _report(blocks, done, total, progress), target))
        done += size
    return stored


def _report(blocks: Iterator[bytes], done: int, total: int, progress: Progress) -> Iterator[bytes]:
    for block in blocks:
        done += len(block)
        progress(done, total)
        yield block


def _copy(name: str, blocks: Iterator[bytes], url: str | None) -> ModelFile:
    """Digest a file, and write it to a URL if one is given."""
    if url is None:
        digest, size = hashlib.sha256(), 0
        for block in blocks:
            digest.update(block)
            size += len(block)
        return ModelFile(name=name, size_bytes=size, sha256=digest.hexdigest())
    with files.Writer(url) as writer:
        for block in blocks:
            writer.write(block)
        written = writer.close()
    return ModelFile(name=name, size_bytes=written.size_bytes, sha256=written.sha256)


def _size(source: Source, name: str) -> int:
    size = files.size_bytes(source.file_url(name))
    if size is None:
        raise DataError(
            f"{source.file_url(name)}: is listed, but missing; download the model again"
        )
    return size


def _blocks(source: Source, name: str) -> Iterator[bytes]:
    try:
        yield from files.iter_blocks(source.file_url(name))
    except FileNotFoundError as e:
        raise DataError(
            f"{source.file_url(name)}: was deleted while it was read; download the model again"
        ) from e


def _publish(
    manifest: ModelManifest, existing: ModelManifest | None, folder: str, request: Request
) -> ModelManifest:
    url = paths.join(folder, MANIFEST)
    if existing is None:
        if files.publish(url, dump_model_manifest(manifest)):
            return manifest
        existing = parse_model_manifest(files.read(url), url)  # another process was first
    what = "other content" if existing.digest != manifest.digest else ""
    if not what and existing.place != manifest.place:
        what = f"its files at {existing.place or folder}"
    if not what and request.licence not in (None, existing.licence):
        what = f"the licence {existing.licence}"
    if not what:
        return existing
    raise UsageError(
        f"{url}: model {request.name} is stored already with {what}, added from {existing.source};"
        f" choose another name, or delete {folder} first"
    )


def _repair(manifest: ModelManifest, source: Source, folder: str) -> None:
    """Copy the files of a stored model again that are gone or incomplete."""
    for file in manifest.files if manifest.place is None else ():
        url = paths.join(folder, file.name)
        if files.size_bytes(url) != file.size_bytes:
            _copy(file.name, _blocks(source, file.name), url)
