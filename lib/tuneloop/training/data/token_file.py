"""The token file: the encoded examples of a set, written once and memory-mapped by every run.

It is a folder with one file per array and a manifest, which is written last. Its name is a digest
of everything that determines the content.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tuneloop.artifacts.records import OutputFile
from tuneloop.artifacts.token_manifest import (
    TokenManifest,
    publish_token_manifest,
    read_token_manifest,
    token_manifest_url,
)
from tuneloop.errors import DataError
from tuneloop.storage import files, local_copy, paths
from tuneloop.training.data.encoding import Block
from tuneloop.training.data.table import StoredIds, TokenTable, encode_id

ARRAYS = {
    "ids": "<i4",
    "starts": "<i8",
    "prompt_lengths": "<i4",
    "example_ids": "u1",
    "example_id_starts": "<i8",
    "gaps": "<i8",
}
"""Name of each array of a token file, which `NAME.bin` holds, and its number format."""


def write_token_file(folder: str, blocks: Iterable[Block], *, attempt: str) -> None:
    """Write a token file, unless another process publishes it first.

    Memory holds one block at a time.

    Args:
        folder: URL of the folder of the token file.
        blocks: the encoded examples, in reading order.
        attempt: name of a folder inside, which no other process writes to.

    Raises:
        DataError: there is no example.
    """
    own = paths.join(folder, "attempts", attempt)
    is_published = False
    try:
        with contextlib.ExitStack() as stack:
            arrays = _Arrays(own, stack)
            for block in blocks:
                arrays.append(block)
            manifest = arrays.close(f"attempts/{attempt}")
        is_published = publish_token_manifest(manifest, folder)
    finally:
        if not is_published:
            files.delete_tree(own)


class _Arrays:
    """The arrays of a token file that is being written, and statistics of the examples."""

    def __init__(self, url: str, stack: contextlib.ExitStack) -> None:
        self._files = {
            name: stack.enter_context(files.Writer(paths.join(url, f"{name}.bin")))
            for name in ARRAYS
        }
        self._examples = self._tokens = self._id_bytes = 0
        self._trained = self._longest = self._longest_response = 0
        self._write("starts", [0])
        self._write("example_id_starts", [0])

    def _write(self, name: str, values: np.ndarray | list[int]) -> None:
        self._files[name].write(np.asarray(values, ARRAYS[name]).tobytes())

    def append(self, block: Block) -> None:
        """Append a block."""
        ends = self._tokens + np.cumsum(block.lengths)
        encoded = [encode_id(each) for each in block.example_ids]
        id_ends = self._id_bytes + np.cumsum([len(each) for each in encoded])
        self._write("ids", block.ids)
        self._write("starts", ends)
        self._write("prompt_lengths", block.prompt_lengths)
        self._files["example_ids"].write(b"".join(encoded))
        self._write("example_id_starts", id_ends)
        self._write("gaps", block.gaps + np.array([self._examples, 0, 0]))
        self._examples += len(encoded)
        self._tokens, self._id_bytes = int(ends[-1]), int(id_ends[-1])
        self._trained += block.trained_tokens
        self._longest = max(self._longest, int(block.lengths.max()))
        self._longest_response = max(self._longest_response, block.longest_response)

    def close(self, path: str) -> TokenManifest:
        """Finish the files, whose folder has this path, and describe them."""
        if not self._examples:
            raise DataError(
                "training examples: found none, expected at least one; export a dataset with"
                " examples"
            )
        written = [(name, writer.close()) for name, writer in self._files.items()]
        return TokenManifest(
            files=tuple(
                OutputFile(
                    name=name,
                    path=f"{path}/{name}.bin",
                    size_bytes=done.size_bytes,
                    sha256=done.sha256,
                )
                for name, done in written
            ),
            examples=self._examples,
            tokens=self._tokens,
            trained_tokens=self._trained,
            longest_tokens=self._longest,
            longest_response_tokens=self._longest_response,
        )


def open_token_file(
    folder: str, *, pad_id: int, should_stop: Callable[[], bool] = lambda: False
) -> tuple[TokenTable, TokenManifest]:
    """Map a token file into memory; every byte of it is verified first.

    Args:
        folder: URL of its folder; an object store's files are downloaded once per host.
        pad_id: id that fills the rest of padded rows.
        should_stop: called while another process downloads; returning True ends the wait.

    Raises:
        DataError: the file does not exist, or was changed after it was written.
        Transient: `should_stop` returned True while waiting.
    """
    manifest = read_token_manifest(folder)
    if manifest is None:
        raise DataError(f"{token_manifest_url(folder)}: missing; run again to encode the examples")
    try:
        arrays = dict(_mapped(folder, manifest, should_stop))
    except DataError as e:
        found = str(e).rpartition("; ")[0]
        raise DataError(
            f"{found}; delete {folder} and run again, which encodes the examples again"
        ) from e
    ids = StoredIds(arrays["example_ids"], arrays["example_id_starts"])
    table = TokenTable(
        arrays["ids"],
        arrays["starts"],
        arrays["prompt_lengths"],
        ids,
        pad_id,
        arrays["gaps"].reshape(-1, 3),
    )
    return table, manifest


def _mapped(
    folder: str, manifest: TokenManifest, should_stop: Callable[[], bool]
) -> Iterator[tuple[str, np.ndarray]]:
    for file in manifest.files:
        path = local_copy.verified_path(
            paths.join(folder, file.path),
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            should_stop=should_stop,
        )
        if not file.size_bytes:  # an empty file cannot be mapped
            yield file.name, np.zeros(0, ARRAYS[file.name])
            continue
        # A plain array over the map: slices of np.memmap are slower.
        yield file.name, np.asarray(np.memmap(path, ARRAYS[file.name], mode="r"))
