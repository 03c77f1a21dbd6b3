"""Delete files of an image's packages that tuneloop never uses, and strip symbols from the rest.

Every line of the table gives its reason. A pattern that matches nothing is an error, so that an
upgrade cannot invalidate it unnoticed. The RECORD file of each package lists the remaining files.

Run it in the builder stage with the interpreter of the packages: `prune.py SITE_PACKAGES`.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

PRUNED = {
    "duckdb": {"duckdb/experimental/*": "emulates the API of Spark"},
    "jsonschema": {"jsonschema/benchmarks/*": "benchmarks"},
    "kubernetes": {
        "kubernetes/aio/*": "a second client for asyncio",
        "kubernetes/client/api/*": "typed methods; lib/tuneloop/k8s sends requests by path",
        "kubernetes/client/models/*": "NEEDED keeps the ones that the checks import",
    },
    "kubernetes-validate": {
        "kubernetes_validate/kubernetes-json-schema/v1.[!3]*": "releases before 1.30",
        "kubernetes_validate/kubernetes-json-schema/v1.3[!6]*": "KUBERNETES_VERSION is 1.36",
        "kubernetes_validate/kubernetes-json-schema/v1.36.*-local/*": "only strict checks are used",
    },
    "numpy": {
        "*.pyi": "for type checkers",
        "numpy/_core/_*tests.*": "tests",
        "numpy/_core/_simd.*": "tests",
        "numpy/distutils/*": "builds packages",
    },
    "pyarrow": {
        "pyarrow/*.p[xy][dix]": "sources of compiled modules",
        "pyarrow/include*/*": "for compilers",
        "pyarrow/src/*": "for compilers",
        "pyarrow/libarrow_python*.so": "a second copy for linkers; the loaded file has a number",
        "pyarrow/libarrow_python*.so.*.*.*": "a third copy",
        "pyarrow/*flight*": "a network protocol of Arrow",
        "pyarrow/*s3*": "object storage goes through fsspec",
        "pyarrow/_pyarrow_cpp_tests*": "tests",
        "pyarrow/_acero.*": "a query engine; tuneloop only writes Parquet",
        "pyarrow/_azurefs.*": "object storage goes through fsspec",
        "pyarrow/_csv.*": "tuneloop only writes Parquet",
        "pyarrow/_dataset*": "tuneloop only writes Parquet",
        "pyarrow/_feather.*": "tuneloop only writes Parquet",
        "pyarrow/_gcsfs.*": "object storage goes through fsspec",
        "pyarrow/_hdfs.*": "object storage goes through fsspec",
        "pyarrow/_orc.*": "tuneloop only writes Parquet",
        "pyarrow/_parquet_encryption.*": "tuneloop encrypts no columns",
        "pyarrow/_substrait.*": "plans of other query engines",
    },
    "pygments": {"pygments/lexers/[a-z]*": "tuneloop does not highlight source code"},
    "sqlalchemy": {
        "sqlalchemy/dialects/m[sy]*sql/*": "the store uses only PostgreSQL and SQLite",
        "sqlalchemy/dialects/oracle/*": "the store uses only PostgreSQL and SQLite",
        "sqlalchemy/ext/a*": "asyncio, and extensions of object mapping",
        "sqlalchemy/orm/*": "the store uses SQL without object mapping",
        "sqlalchemy/testing/*": "for the tests of dialects",
    },
    "uvloop": {"uvloop/*.p[xy][dx]": "sources of compiled modules"},
}
"""Distribution -> pattern of files to delete -> reason why tuneloop does not need them."""

DROPPED = {
    "aiohttp": "required by kubernetes/aio",
    "aiohttp-retry": "required by kubernetes/aio",
    "aiohappyeyeballs": "required by aiohttp",
    "aiosignal": "required by aiohttp",
    "frozenlist": "required by aiohttp",
    "multidict": "required by aiohttp",
    "propcache": "required by aiohttp",
    "yarl": "required by aiohttp",
}
"""Distributions that only deleted files need; locks of object stores install them again."""

NEEDED = """
import sys
from tuneloop.k8s.checks import schemas
from tuneloop.k8s.client import connection
for name in schemas._BUILT_IN.values():
    connection.client_model(name)
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None):
        print(module.__file__)
"""
"""Program that prints the files of the modules that lib/tuneloop/k8s/checks loads."""

_PT_LOAD = 1

TESTS = ("*/tests/*", "*/_tests/*")
"""Patterns of test files, which are deleted from every package."""


def distributions(site: Path) -> dict[str, Path]:
    """Return name of each installed distribution, as PEP 503 normalizes it -> dist-info folder."""
    names = {}
    for folder in site.glob("*.dist-info"):
        name = folder.name.removesuffix(".dist-info").rsplit("-", 1)[0]
        names[re.sub(r"[-_.]+", "-", name).lower()] = folder
    return names


def needed(site: Path) -> set[str]:
    """Return the files below site-packages that must be kept even if a pattern matches them."""
    command = [sys.executable, "-B", "-c", NEEDED]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = {Path(line) for line in done.stdout.splitlines()}
    return {path.relative_to(site).as_posix() for path in lines if path.is_relative_to(site)}


def prune(site: Path, name: str, info: Path, keep: set[str]) -> int:
    """Delete the files of one distribution that the tables name.

    Args:
        site: the site-packages folder.
        name: name of the distribution.
        info: dist-info folder of the distribution.
        keep: files to keep.

    Returns:
        The number of deleted bytes.
    """
    record = info / "RECORD"
    rows = list(csv.reader(io.StringIO(record.read_text("utf-8"))))
    unmatched, gone = set(PRUNED.get(name, {})), set()
    if name in DROPPED:
        gone = {path for path, *_ in rows}
    for path, *_ in rows:
        for pattern in (*PRUNED.get(name, {}), *TESTS):
            if fnmatch.fnmatchcase(path, pattern):
                unmatched.discard(pattern)
                if path not in keep:
                    gone.add(path)
    if unmatched:
        sys.exit(
            f"{name}: no file matches {', '.join(sorted(unmatched))};"
            " check which files this version installs and correct images/prune.py"
        )
    size = 0
    for path in gone:
        file = site / path
        if file.is_file():
            size += file.stat().st_size
            file.unlink()
    if gone and record.is_file():
        kept = io.StringIO()
        csv.writer(kept, lineterminator="\n").writerows(row for row in rows if row[0] not in gone)
        record.write_text(kept.getvalue(), "utf-8")
    return size


def is_loadable(path: Path) -> bool:
    """Return whether the loader can map an ELF64 file.

    Offset and address of each segment must be equal modulo the alignment. `strip` breaks this in
    files that patchelf has changed, such as most files in manylinux wheels.
    """
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return False
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for number in range(count):
        kind, _, offset, address = struct.unpack_from("<IIQQ", data, start + number * size)
        (align,) = struct.unpack_from("<Q", data, start + number * size + 48)
        if kind == _PT_LOAD and (offset - address) % max(align, 1):
            return False
    return True


def strip(site: Path) -> int:
    """Remove symbols for debuggers from the shared objects that remain loadable without them.

    Returns:
        The number of bytes saved.
    """
    program = shutil.which("strip")
    if program is None:
        print("prune: BUILD_IMAGE has no `strip`, so symbols are kept", file=sys.stderr)
        return 0
    size = 0
    for path in site.rglob("*.so*"):
        if path.is_symlink() or not path.is_file():
            continue
        stripped = path.with_name(path.name + ".stripped")
        command = [program, "--strip-unneeded", "-o", str(stripped), str(path)]
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode == 0 and is_loadable(stripped):
            size += path.stat().st_size - stripped.stat().st_size
            shutil.copymode(path, stripped)
            stripped.replace(path)
        else:
            stripped.unlink(missing_ok=True)
    return size


def remove_empty_folders(site: Path) -> None:
    """Remove folders that are empty after pruning."""
    for folder in sorted((path for path in site.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def main() -> None:
    """Prune, strip, and print how much space was saved."""
    site = Path(sys.argv[1])
    installed = distributions(site)
    keep = needed(site) if "kubernetes" in installed else set()
    pruned = sum(prune(site, name, info, keep) for name, info in installed.items())
    stripped = strip(site)
    remove_empty_folders(site)
    print(f"prune: {pruned / 1e6:.0f} MB of files, {stripped / 1e6:.0f} MB of symbols")


if __name__ == "__main__":
    main()
