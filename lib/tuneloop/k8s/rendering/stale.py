"""Find manifests of other runs or versions in a folder that receives a rendered run."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tuneloop.errors import UsageError
from tuneloop.k8s import names

SUFFIXES = (".json", ".yaml", ".yml")
"""Files that `kubectl apply -f DIR` reads, of the folder itself alone."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def refuse_stale_files(folder: Path, written: Container[str]) -> None:
    """Refuse a folder whose manifests `kubectl apply -f` would apply beside the rendered ones.

    Versions before the submitter wrote every stage to the top of the folder, where applying the
    folder starts all of them at once. Files of other programs are ignored.

    Args:
        folder: the folder; it need not exist.
        written: names of the files that are about to be written.

    Raises:
        UsageError: a file holds objects of a run and would not be overwritten.
    """
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    stale = [
        path.name
        for path in found
        if path.suffix in SUFFIXES and path.name not in written and _holds_a_run(path)
    ]
    if stale:
        raise UsageError(
            f"{folder}: holds {', '.join(stale)} of another run or version, which `kubectl apply"
            " -f` would apply too, expected none; delete them, or choose an empty folder"
        )


def applied_stream(rendered: Mapping[str, str]) -> str:
    """Join the files that `kubectl apply -f DIR` reads to one stream of YAML documents.

    Args:
        rendered: path relative to the folder -> text. kubectl does not look into subfolders.
    """
    applied = (
        text for name, text in rendered.items() if "/" not in name and name.endswith(SUFFIXES)
    )
    return "---\n".join(text if text.endswith("\n") else f"{text}\n" for text in applied)


def _holds_a_run(path: Path) -> bool:
    try:
        documents = list(yaml.load_all(path.read_bytes(), Loader=_Loader))
    except (OSError, ValueError, yaml.YAMLError):
        return False  # kubectl cannot read it either
    return any(names.RUN in _labels(each) for each in _objects(documents))


def _objects(documents: list[Any]) -> Iterator[dict[str, Any]]:
    for document in documents:
        if isinstance(document, dict):
            yield document
            items = document.get("items")  # of a List
            yield from _objects(items) if isinstance(items, list) else ()


def _labels(document: dict[str, Any]) -> dict[Any, Any]:
    metadata = document.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    return labels if isinstance(labels, dict) else {}
