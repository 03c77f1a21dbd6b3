"""Find the data files of a folder of the Hugging Face library `datasets`.

A folder that `save_to_disk` wrote has `state.json`, or `dataset_dict.json` with one folder per
split. A folder of a dataset repository has data files. Its README.md can list them by subset and
split; otherwise their names tell the split, as in `data/train-00000-of-00002.parquet`.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from tuneloop.errors import DataError, UsageError
from tuneloop.jsonl import parse_object
from tuneloop.storage import files, paths

_STATE, _SPLITS, _README = "state.json", "dataset_dict.json", "README.md"
_DESCRIPTIONS = frozenset({"dataset_infos.json", "dataset_info.json"})
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_NAMED = re.compile(r"(?:data/)?(.+?)(?:[-_/](?:part-)?\d+|[-_/]\d+-of-\d+(?:-[0-9a-f]{10,40})?)?")
"""Path of a file without its suffix: `data/`, the split, the number of the shard, and the digest
that earlier versions of the library wrote after it."""
_SHOWN = 20
"""Maximum number of splits or subsets in an error message."""
_DEFAULT = "default"


def data_files(
    folder: str, suffixes: Iterable[str], *, split: str | None = None, subset: str | None = None
) -> list[str]:
    """Return the URLs of the data files of one split, in order.

    Args:
        folder: path or URL of the folder.
        suffixes: endings of the names of data files, such as `.parquet`.
        split: name of the split; None if the folder has only one.
        subset: name of the subset (`config_name` in README.md); None if there is only one.

    Raises:
        UsageError: the folder has several splits or subsets and none is named, or not that one.
        DataError: the folder has no data files, or its description is broken.
    """
    names = set(files.list_names(folder))
    if subset is not None and names & {_STATE, _SPLITS}:
        raise UsageError(
            f"--subset: is {subset} for {folder}, expected it only for a repository with subsets;"
            " remove the option"
        )
    if _STATE in names:
        return _saved(folder, split)
    if _SPLITS in names:
        url = paths.join(folder, _SPLITS)
        listed = _object(url).get("splits")
        found = [str(name) for name in listed] if isinstance(listed, list) else []
        chosen = _chosen(folder, "split", split, found)
        return _saved(paths.join(folder, chosen))
    relative = _relative(folder, tuple(suffixes))
    if not relative:
        raise DataError(
            f"{folder}: the folder has no data files, expected files that end in"
            f" {', '.join(suffixes)}; name a file or another folder"
        )
    described = _described(folder, subset) if _README in names else None
    by_split = _by_split(relative) if described is None else _matching(relative, described)
    chosen = _chosen(folder, "split", split, list(by_split))
    if not by_split[chosen]:
        raise DataError(
            f"{folder}: {_README} lists no file that exists for the split {chosen}; fetch the"
            " folder again"
        )
    return [paths.join(folder, name) for name in sorted(by_split[chosen])]


def _saved(folder: str, split: str | None = None) -> list[str]:
    url = paths.join(folder, _STATE)
    state = _object(url)
    if split is not None:
        _chosen(folder, "split", split, [state["_split"]] if state.get("_split") else [])
    if state.get("_indices_data_files"):
        raise DataError(
            f"{url}: the dataset is a selection of the rows in its files (_indices_data_files),"
            " expected files with only its rows; load it, and save it with a current version of"
            " datasets"
        )
    listed = state.get("_data_files")
    names = [
        each.get("filename") if isinstance(each, dict) else None
        for each in (listed if isinstance(listed, list) else [])
    ]
    if not names or not all(isinstance(name, str) and paths.is_below(name) for name in names):
        raise DataError(
            f"{url}: _data_files is not a list of files, expected what save_to_disk writes; save"
            " the dataset again"
        )
    return [paths.join(folder, str(name)) for name in names]


def _object(url: str) -> dict[str, Any]:
    try:
        return parse_object(files.read(url), url)
    except FileNotFoundError as e:
        raise DataError(f"{url}: no such file, expected it; save the dataset again") from e


def _relative(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the paths of data files below the folder; hidden files are none."""
    return [
        name
        for name in files.list_below(folder)
        if name.endswith(suffixes)
        and not any(part.startswith((".", "_")) for part in name.split("/"))
        and posixpath.basename(name) not in _DESCRIPTIONS
    ]


def _described(folder: str, subset: str | None) -> Mapping[str, list[str]] | None:
    """Return patterns of files by split, from the head of README.md; None if it lists none."""
    url = paths.join(folder, _README)
    head = _FRONT_MATTER.match(files.read(url).decode("utf-8", "replace"))
    try:
        value = yaml.load(head[1], yaml.BaseLoader) if head else None
    except yaml.YAMLError as e:
        raise DataError(f"{url}: the head is not YAML, expected YAML between ---; fix it") from e
    listed = value.get("configs") if isinstance(value, dict) else None
    configs = {
        str(each.get("config_name", _DEFAULT)): each.get("data_files")
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, dict)
    }
    if not configs:
        return None
    found = configs[_chosen(folder, "subset", subset, list(configs))]
    return _patterns(found, url)


def _patterns(found: Any, url: str) -> dict[str, list[str]]:
    if isinstance(found, str):
        return {"train": [found]}
    patterns: dict[str, list[str]] = {}
    for each in found if isinstance(found, list) else []:
        if isinstance(each, str):
            patterns.setdefault("train", []).append(each)
        elif isinstance(each, dict) and isinstance(each.get("split"), str):
            path = each.get("path")
            patterns[each["split"]] = path if isinstance(path, list) else [str(path)]
    if not patterns:
        raise DataError(
            f"{url}: data_files has no split with a path, expected a list of both; fix it, or name"
            " the files themselves"
        )
    return patterns


def _matching(names: list[str], patterns: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {
        split: [name for name in names if any(fnmatch.fnmatch(name, glob) for glob in globs)]
        for split, globs in patterns.items()
    }


def _by_split(names: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        folder, slash, file = name.rpartition("/")
        match = _NAMED.fullmatch(f"{folder}{slash}{file.split('.')[0]}")
        found.setdefault(match[1] if match else name, []).append(name)
    return found


def _chosen(folder: str, what: str, name: str | None, known: list[str]) -> str:
    if name is None and len(known) == 1:
        return known[0]
    if name in known:
        return str(name)
    shown = ", ".join(sorted(known)[:_SHOWN]) or "none"
    if len(known) > _SHOWN:
        shown += f" and {len(known) - _SHOWN} others"
    asked = "is not given" if name is None else f"is {name}"
    raise UsageError(f"--{what}: {asked} for {folder}, expected one of its {what}s: {shown}")
