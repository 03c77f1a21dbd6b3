"""The manifest of a model: its files, architecture, tokenizer and origin.

Two kinds of folders hold one: `models/<name>/` (a published checkpoint that `tuneloop models add`
stored) and the output `model/` of a train stage (a tuned model). Readers need nothing else to load
the model.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from tuneloop import jsonl
from tuneloop.errors import DataError, InputMissing
from tuneloop.specs.stages import ModelRef
from tuneloop.specs.training.architecture import Architecture
from tuneloop.storage import files, paths
from tuneloop.validation import first_error

MANIFEST = "manifest.json"
TEXT_FILES = (
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
"""Files that determine the token ids of a conversation."""


class ModelFile(BaseModel):
    """One file of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: Annotated[str, AfterValidator(paths.below)]
    """Name within the model's folder, such as `model-00001-of-00002.safetensors`."""
    size_bytes: int
    sha256: str


class ModelManifest(BaseModel):
    """Content of a model's `manifest.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str
    """Name of the model, such as `gemma3-1b`, or `gemma3-1b-tuned-1a2b3c4d` after training."""
    architecture: Architecture
    """Family and shape."""
    dtype: str
    """Dtype of the stored weights, such as `bfloat16`; the most common one if they are mixed."""
    parameters: int
    """Number of parameters; tied embeddings count once."""
    files: tuple[ModelFile, ...]
    """All files of the model in Hugging Face layout, sorted by name, without the manifest."""
    place: str | None = None
    """URL of the folder that holds the files; null means the folder of the manifest."""
    weights_sha256: str
    """Digest of the weights: sha256 of the (name, sha256) lines of the safetensors files."""
    tokenizer_sha256: str | None
    """Digest of the tokenizer file that is used (`tokenizer.json`, else `tokenizer.model`); null
    for a model without a tokenizer, which can be checked, but not trained."""
    chat_template_sha256: str | None
    """Digest of the chat template's text; null for a base model, which has none."""
    licence: str | None = None
    """Licence of the weights, as their source states it; null if it states none."""
    source: str
    """Where the model comes from: a URL, a hub id, or `random weights, seed N`."""
    random_weights: bool = False
    """Whether training started from random weights."""
    base: str | None = None
    """Name of the model that this one was tuned from; null if it was not tuned here."""

    def file(self, name: str) -> ModelFile:
        """Return the description of a file.

        Raises:
            DataError: the model has no such file.
        """
        for each in self.files:
            if each.name == name:
                return each
        raise DataError(f"model {self.name}: has no file {name}; add the model again")

    @property
    def weight_files(self) -> tuple[ModelFile, ...]:
        """The safetensors files, sorted by name."""
        return tuple(each for each in self.files if each.name.endswith(".safetensors"))

    @property
    def text_digests(self) -> dict[str, str]:
        """Digests of the files that determine the token ids of a conversation, by name."""
        return {each.name: each.sha256 for each in self.files if each.name in TEXT_FILES}

    @property
    def digest(self) -> str:
        """Digest of what determines the model's behaviour; it enters fingerprints."""
        identity = self.model_dump(
            mode="json", exclude={"name", "place", "licence", "source", "base", "files"}
        )
        identity["files"] = [
            (each.name, each.sha256) for each in self.files if not is_document(each.name)
        ]
        return hashlib.sha256(jsonl.dump_line(identity)).hexdigest()


def is_document(name: str) -> bool:
    """Return whether a file is for people only, such as the model card and the licence."""
    return name.upper().startswith(("README", "LICENSE", "LICENCE", "NOTICE", "USE_POLICY"))


def weights_digest(weight_files: tuple[ModelFile, ...]) -> str:
    """Compute `weights_sha256` from the safetensors files, sorted by name."""
    lines = "".join(f"{each.name} {each.sha256}\n" for each in weight_files)
    return hashlib.sha256(lines.encode()).hexdigest()


def dump_model_manifest(manifest: ModelManifest) -> bytes:
    """Serialize a manifest as `manifest.json`."""
    return manifest.model_dump_json(indent=1).encode() + b"\n"


def parse_model_manifest(data: bytes, place: str) -> ModelManifest:
    """Parse a manifest.

    Raises:
        DataError: it is not a model's manifest.
    """
    try:
        return ModelManifest.model_validate_json(data)
    except ValidationError as e:
        raise DataError(f"{place}: {first_error(e)}; add or train the model again") from e


def model_prefix(artifacts: str, name: str) -> str:
    """Return the folder of a stored model."""
    return paths.join(artifacts, "models", name)


def load_referenced_model(ref: ModelRef) -> ModelManifest:
    """Read the manifest of the model that a stage spec refers to.

    Raises:
        InputMissing: there is none.
        DataError: it is broken, or describes another model than the one the run was planned with.
    """
    manifest = load_model_manifest(ref.folder)
    if manifest.digest != ref.digest:
        raise DataError(
            f"{paths.join(ref.folder, MANIFEST)}: digest is {manifest.digest[:12]}…, expected"
            f" {ref.digest[:12]}…, so the model was changed after the run was planned; plan the run"
            " again"
        )
    return manifest


def load_model_manifest(folder: str) -> ModelManifest:
    """Read the manifest of the model in a folder.

    Raises:
        InputMissing: there is none.
        DataError: it is broken.
    """
    url = paths.join(folder, MANIFEST)
    try:
        data = files.read(url)
    except FileNotFoundError as e:
        raise InputMissing(
            f"{url}: missing, expected a model's manifest; add the model with `tuneloop models add`"
        ) from e
    return parse_model_manifest(data, url)
