"""Which files of a folder in Hugging Face layout belong to the model.

Repositories also hold weights in other formats, images and folders for other runtimes. Only what
loading, chatting and handing on need is taken.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from tuneloop.artifacts.model_manifest import is_document
from tuneloop.errors import DataError
from tuneloop.storage import paths
from tuneloop.validation import shorten

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SMALL_FILES = (
    CONFIG,
    "generation_config.json",
    INDEX,
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files that are taken besides weights and documents; each fits into memory."""

_OTHER_FORMATS = (".bin", ".pt", ".pth", ".msgpack", ".h5", ".ot")


def small_names(names: Collection[str], place: str) -> list[str]:
    """Return the files of a folder that are taken besides the weights, sorted.

    Args:
        names: names of the files directly in the folder.
        place: URL of the folder, for error messages.

    Raises:
        DataError: the folder has no config.json.
    """
    if CONFIG in names:
        return sorted(name for name in names if name in SMALL_FILES or is_document(name))
    if "adapter_config.json" in names:
        raise DataError(
            f"{place}: found a PEFT adapter, expected a whole model; merge the adapter into its"
            " base model first"
        )
    if found := sorted(name for name in names if name.endswith(".gguf")):
        raise DataError(
            f"{place}: {CONFIG} is missing, found {len(found)} GGUF files; add one of them, such as"
            f" {paths.join(place, found[0])}"
        )
    raise DataError(
        f"{place}: {CONFIG} is missing, expected a folder in Hugging Face layout; check the URL"
    )


def weight_names(names: Collection[str], index: bytes | None, place: str) -> list[str]:
    """Return the safetensors files of a folder, sorted.

    Args:
        names: names of the files directly in the folder.
        index: content of `model.safetensors.index.json`; None if there is none.
        place: URL of the folder, for error messages.

    Raises:
        DataError: there are no safetensors, the index is broken or names a missing file, or it
            cannot be known which of several files are the model.
    """
    if SINGLE in names:  # before an index, as in transformers
        return [SINGLE]
    if index is not None:
        wanted = _names_in_index(index, paths.join(place, INDEX))
        if missing := sorted(wanted - set(names)):
            raise DataError(
                f"{paths.join(place, INDEX)}: names {missing[0]}, which is missing, expected every"
                " file that the index names; download the model again"
            )
        return sorted(wanted)
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise DataError(
            f"{place}: found {len(found)} safetensors files and no {INDEX}, expected one file or an"
            " index; download the index too"
        )
    other = next((name for name in sorted(names) if name.endswith(_OTHER_FORMATS)), None)
    found_text = f"found {other} and no safetensors file" if other else "found no weights"
    raise DataError(
        f"{place}: {found_text}, expected {SINGLE}; convert the model with transformers'"
        " save_pretrained, or choose a repository with safetensors files"
    )


def _names_in_index(data: bytes, place: str) -> set[str]:
    weight_map = parse_json(data, place).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(
            f"{place}: weight_map is {shorten(weight_map)}, expected an object of tensor names and"
            " files; download the file again"
        )
    names = set(map(str, weight_map.values()))
    if bad := sorted(name for name in names if "/" in name or not name.endswith(".safetensors")):
        raise DataError(
            f"{place}: names the file {shorten(bad[0])}, expected safetensors files in the same"
            " folder; download the file again"
        )
    return names


def parse_json(data: bytes, place: str) -> dict[str, object]:
    """Parse a JSON object of a model's folder.

    Raises:
        DataError: it is not a JSON object.
    """
    try:
        value = json.loads(data)
    except ValueError as e:
        raise DataError(f"{place}: broken JSON ({e}); download the file again") from e
    if not isinstance(value, Mapping):
        raise DataError(
            f"{place}: found {shorten(value)}, expected a JSON object; download the file again"
        )
    return dict(value)
