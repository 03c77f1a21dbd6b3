"""Keep eval sets immutable: the first run that uses a name and version records the set's digest.

The record lies below the artifacts prefix and is never overwritten. Sets that state no version are
not recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tuneloop import jsonl
from tuneloop.artifacts import layout
from tuneloop.errors import DataError
from tuneloop.specs.stages import EvalSetRef
from tuneloop.storage import files
from tuneloop.storage.sealed import sealed, unsealed


def check_versions(sets: Iterable[EvalSetRef], artifacts: str) -> None:
    """Refuse a set of which another content has the same name and version; nothing is written.

    Raises:
        DataError: an earlier run has recorded another digest, or a record is damaged.
    """
    for each in sets:
        if each.stated is not None:
            _compare(each, artifacts)


def record_versions(sets: Iterable[EvalSetRef], artifacts: str) -> None:
    """Record the digests of all sets that state a version.

    Raises:
        DataError: another run has recorded another digest, or a record is damaged.
    """
    for each in sets:
        if each.stated is None:
            continue
        url = layout.eval_set_url(artifacts, each.stated, str(each.version))
        value = {"name": each.stated, "version": each.version, "sha256": each.sha256}
        if not files.publish(url, jsonl.dump_line(sealed(value))):
            _compare(each, artifacts)


def _compare(each: EvalSetRef, artifacts: str) -> None:
    name, version = str(each.stated), str(each.version)
    url = layout.eval_set_url(artifacts, name, version)
    try:
        recorded = unsealed(json.loads(files.read(url)))["sha256"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise DataError(
            f"{url}: not the record of an eval set ({e}); restore it, or delete it to record the"
            " set again"
        ) from e
    if recorded != each.sha256:
        raise DataError(
            f"{each.url}: its sha256 is {each.sha256[:12]}, but version {version} of the set"
            f" {name} was used with {str(recorded)[:12]}; give the changed set another version in"
            " its first line"
        )
