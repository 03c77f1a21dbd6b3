"""What a verification finds, file by file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from tuneloop.errors import TuneloopError
from tuneloop.storage import files, paths
from tuneloop.storage.links import refuse_links_out
from tuneloop.storage.sealed import SEAL


@dataclass(frozen=True)
class Problem:
    """One file that is not as it was written."""

    path: str
    """Path relative to the artifacts, or URL of a file elsewhere."""
    text: str
    """What was found, as a sentence that names the file."""


@dataclass
class Findings:
    """The result of a verification."""

    artifacts: str
    problems: list[Problem] = field(default_factory=list)
    checked: set[str] = field(default_factory=set)
    """Paths of the files that were compared with what is recorded of them."""
    unsealed: set[str] = field(default_factory=set)
    """Paths of JSON files without a seal."""
    sealed: set[str] = field(default_factory=set)
    """Paths of JSON files with a seal."""
    size_bytes: int = 0
    """Bytes that were read."""

    @property
    def is_old(self) -> bool:
        """Whether an older version, which wrote no seals, has written all files."""
        return not self.sealed

    def url(self, path: str) -> str:
        """Return the URL of a file by its path."""
        return paths.join(self.artifacts, path)

    def add(self, path: str, text: str) -> None:
        """Note a problem with a file."""
        self.checked.add(path)
        if Problem(path, text) not in self.problems:
            self.problems.append(Problem(path, text))

    @contextlib.contextmanager
    def checking(self, path: str) -> Iterator[None]:
        """Check a file in a block; an expected error in it is noted as a problem of the file."""
        self.checked.add(path)
        try:
            yield
        except FileNotFoundError:
            self.add(path, f"{self.url(path)}: is missing, expected the file; restore it")
        except TuneloopError as e:
            self.add(path, str(e))

    def compare(self, path: str, size_bytes: int, sha256: str) -> None:
        """Read a file and compare it with its recorded size and digest."""
        with self.checking(path):
            refuse_links_out(self.artifacts, [path])
            for block in files.iter_verified(self.url(path), size_bytes, sha256):
                self.size_bytes += len(block)

    def read_json(self, path: str) -> bytes:
        """Read a JSON file whose seal its reader checks, and note whether it has one.

        Raises:
            FileNotFoundError: there is no such file.
        """
        refuse_links_out(self.artifacts, [path])
        data = files.read(self.url(path))
        self.size_bytes += len(data)
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(data)
            if isinstance(value, dict):
                (self.sealed if SEAL in value else self.unsealed).add(path)
        return data
