"""Load a model through its manifest, and write the folder of a trained one.

What training starts from, what is evaluated, asked and exported are all such folders.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from tuneloop.artifacts.model_manifest import (
    MANIFEST,
    ModelFile,
    ModelManifest,
    dump_model_manifest,
    load_model_manifest,
    weights_digest,
)
from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.storage import files, paths
from tuneloop.training.models.hf_config import CONFIG, dump_config
from tuneloop.training.models.hf_layout import DTYPES, INDEX, CheckpointFiles, open_folder
from tuneloop.training.models.hf_writer import (
    MAX_SHARD_BYTES,
    ByteSink,
    OpenFile,
    OutgoingTensor,
    outgoing_params,
    write_weights,
)
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.tensors import count_parameters
from tuneloop.training.text.chat_format import ChatFormat, load_chat_format
from tuneloop.training.text.jinja_template import find_template
from tuneloop.training.text.layout import Thinking
from tuneloop.training.text.tokenizers import parse_json_object, tokenizer_file

WEIGHTS_SUFFIX = ".safetensors"
_GENERATION_CONFIG = "generation_config.json"
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder without its weights in memory: its manifest, headers and small files."""

    url: str
    """URL of the folder that holds the files."""
    manifest: ModelManifest
    weights: CheckpointFiles
    contents: Mapping[str, bytes]
    """Contents of all files but the weights, by name, verified."""

    def chat_format(self, thinking: Thinking = "plain") -> ChatFormat:
        """Load the tokenizer and the chat template.

        Raises:
            DataError: they are missing or broken, or have ids that the model does not have.
            SpecError: `thinking` is `steps`, and the template does not know thinking.
        """
        found = load_chat_format(self.contents, place=self.url, thinking=thinking)
        rows = self.manifest.architecture.vocab_size
        if found.vocab_size > rows:
            raise DataError(
                f"{self.url}: the tokenizer needs {found.vocab_size} rows, expected at most"
                f" the model's {rows}; use the tokenizer that the model was trained with"
            )
        return found


@dataclass(frozen=True)
class StoredModel:
    """A model that was loaded from a folder."""

    model: Any
    """The model, with its parameters on the devices."""
    architecture: Architecture
    manifest: ModelManifest
    chat_format: ChatFormat
    digest: str
    """The manifest's digest: it stands for weights, tokenizer and template."""
    folder: ModelFolder


def open_model_folder(folder: str, manifest: ModelManifest | None = None) -> ModelFolder:
    """Read a model's manifest, the headers of its weights and its small files.

    Args:
        folder: URL of the folder that holds the manifest.
        manifest: the manifest, if the caller has read it already.

    Raises:
        InputMissing: there is no manifest.
        DataError: a file is missing, or differs from the one that the manifest describes.
    """
    found = load_model_manifest(folder) if manifest is None else manifest
    url = found.place or folder
    sizes = {each.name: each.size_bytes for each in found.weight_files}
    weights = open_folder(url, [each.name for each in found.files])
    for each in weights.files:
        expected = sizes[each.url.rsplit("/", 1)[-1]]
        if each.size_bytes != expected:
            raise DataError(
                f"{each.url}: holds {each.size_bytes} bytes, expected {expected} as in the model's"
                " manifest; add the model again"
            )
    contents = {
        each.name: files.read_verified(
            paths.join(url, each.name),
            expected_bytes=each.size_bytes,
            expected_sha256=each.sha256,
        )
        for each in found.files
        if not each.name.endswith(WEIGHTS_SUFFIX)
    }
    return ModelFolder(url, found, weights, contents)


def load_stored_model(
    folder: str,
    *,
    manifest: ModelManifest | None = None,
    dtype: str | None = None,
    mesh: Mesh | None = None,
    thinking: Thinking = "plain",
) -> StoredModel:
    """Load a model with its tokenizer and chat template.

    The digests of all weights are checked first. In a process group the processes share this work;
    each makes the same call.

    Args:
        folder: URL of the folder that holds the manifest.
        manifest: the manifest, if the caller has read it already.
        dtype: dtype of the parameters; null keeps that of the files.
        mesh: devices of all processes; null uses the default device.
        thinking: where the reasoning steps of a response go.

    Raises:
        InputMissing: there is no manifest.
        DataError: a file is missing, broken, or differs from the one that the manifest describes.
        SpecError: `thinking` is `steps`, and the template does not know thinking.
    """
    found = open_model_folder(folder, manifest)
    chat_format = found.chat_format(thinking)
    verify_weights(found)
    architecture = found.manifest.architecture
    model = load_model(found.weights, architecture, dtype=dtype, mesh=mesh)
    return StoredModel(
        model, architecture, found.manifest, chat_format, found.manifest.digest, found
    )


def verify_weights(folder: ModelFolder) -> None:
    """Compare the digests of the weights with the manifest's; each process takes some files.

    Raises:
        DataError: a file differs.
    """
    share = folder.manifest.weight_files[jax.process_index() :: jax.process_count()]
    for each in share:
        url = paths.join(folder.url, each.name)
        for _ in files.iter_verified(url, each.size_bytes, each.sha256):
            pass


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from, for its manifest."""

    name: str
    """Name of the model, or the run that tuned it."""
    source: str
    """Text such as `tuned by run RUN_ID` or `random weights, seed 0`."""
    licence: str | None = None
    random_weights: bool = False
    """Whether training started from random weights."""
    base: str | None = None
    """Name of the model that this one was tuned from."""


def write_model_folder(
    params: Mapping[str, Any],
    architecture: Architecture,
    lineage: Lineage,
    documents: Mapping[str, bytes],
    open_file: OpenFile,
    *,
    base: ModelFolder | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> ModelManifest:
    """Write a model in Hugging Face layout, its manifest last.

    In a process group every process makes the same call with its own arrays, because shards are
    gathered; all but the first pass `discard` as `open_file`.

    Args:
        params: arrays by dotted parameter name: `live_params(model)`, or merged weights.
        architecture: family and shape.
        lineage: where the model comes from.
        documents: contents of the other files by name: tokenizer, chat template,
            generation_config.json, README.md. An index or a config.json among them is replaced.
        open_file: opens a file of the folder, such as `lambda name: stage.output("model/" + name)`.
        base: folder of the model that this one was tuned from. Its tensor names, dtypes, unknown
            keys of config.json and vision model are kept.
        dtype: dtype of the weights; null keeps that of the base, or of the parameters.
        max_shard_bytes: size of a weights file above which there are several with an index.

    Returns:
        The manifest that was written.

    Raises:
        DataError: a document is not valid.
    """
    weights = None if base is None else base.weights
    tensors = outgoing_params(params, architecture, weights, dtype)
    written: list[ModelFile] = []

    def open_recorded(name: str) -> AbstractContextManager[ByteSink]:
        return _recorded(name, open_file, written)

    write_weights(tensors, open_recorded, max_shard_bytes)
    stored_dtype = _most_common_dtype(tensors)
    config = _config(architecture, stored_dtype, documents, base)
    others = {name: data for name, data in documents.items() if name != INDEX}
    for name, data in {**others, CONFIG: config}.items():
        with open_recorded(name) as file:
            file.write(data)
    found = tuple(sorted(written, key=lambda each: each.name))
    template = find_template(documents, lineage.name)
    manifest = ModelManifest(
        name=lineage.name,
        architecture=architecture,
        dtype=stored_dtype,
        parameters=count_parameters(architecture),
        files=found,
        weights_sha256=weights_digest(
            tuple(each for each in found if each.name.endswith(WEIGHTS_SUFFIX))
        ),
        tokenizer_sha256=hashlib.sha256(tokenizer_file(documents)).hexdigest(),
        chat_template_sha256=template and hashlib.sha256(template[0].encode()).hexdigest(),
        licence=lineage.licence,
        source=lineage.source,
        random_weights=lineage.random_weights,
        base=lineage.base,
    )
    with open_file(MANIFEST) as file:
        file.write(dump_model_manifest(manifest))
    return manifest


@contextmanager
def discard(name: str) -> Iterator[ByteSink]:
    """Open a file that is written nowhere: for the processes of a group that only send shards."""
    yield _Discarded()


class _Discarded:
    def write(self, data: bytes) -> None:
        """Drop the bytes."""


class _Recorder:
    """Count and digest what is written to a file."""

    def __init__(self, file: ByteSink) -> None:
        self._file, self._sha256, self.size_bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._sha256.update(data)
        self.size_bytes += len(data)
        self._file.write(data)

    def sha256(self) -> str:
        """Return the digest of what was written so far."""
        return self._sha256.hexdigest()


@contextmanager
def _recorded(name: str, open_file: OpenFile, written: list[ModelFile]) -> Iterator[ByteSink]:
    with open_file(name) as file:
        recorder = _Recorder(file)
        yield recorder
    written.append(ModelFile(name=name, size_bytes=recorder.size_bytes, sha256=recorder.sha256()))


def _most_common_dtype(tensors: list[OutgoingTensor]) -> str:
    counts: Counter[str] = Counter()
    for each in tensors:
        counts[each.dtype_name] += each.size_bytes
    return next(DTYPES[name].name for name, _ in counts.most_common() if name in DTYPES)


def _config(
    architecture: Architecture,
    dtype: str,
    documents: Mapping[str, bytes],
    base: ModelFolder | None,
) -> bytes:
    """Build config.json; it names the same control ids as generation_config.json."""
    original = None
    if base is not None:
        original = parse_json_object(base.contents[CONFIG], paths.join(base.url, CONFIG))
    generation = parse_json_object(
        documents.get(_GENERATION_CONFIG, b"{}"), f"{_GENERATION_CONFIG} of the model"
    )
    ids = {key: generation[key] for key in _TOKEN_IDS if key in generation}
    config = dump_config(architecture, dtype, original, ids)
    return json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"
