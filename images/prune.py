"""Take out of an image's packages what tuneloop never runs, and strip symbols from the rest.

One rule: every line of the table has its reason, and one that no longer matches anything is an
error, so that an upgrade cannot make it wrong unnoticed. RECORD of each package says what is left.

Runs in the builder stage, by the interpreter of the packages: `prune.py SITE_PACKAGES`.
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
    "duckdb": {"duckdb/experimental/*": "an imitation of Spark's API"},
    "jsonschema": {"jsonschema/benchmarks/*": "benchmarks"},
    "kubernetes": {
        "kubernetes/aio/*": "the same client again for asyncio",
        "kubernetes/client/api/*": "typed methods: lib/tuneloop/k8s asks the API by paths",
        "kubernetes/client/models/*": "but for those that the checks import, see NEEDED",
    },
    "kubernetes-validate": {
        "kubernetes_validate/kubernetes-json-schema/v1.[!3]*": "releases before 1.30",
        "kubernetes_validate/kubernetes-json-schema/v1.3[!6]*": "KUBERNETES_VERSION is 1.36",
        "kubernetes_validate/kubernetes-json-schema/v1.36.*-local/*": "checks are strict",
    },
    "numpy": {
        "*.pyi": "for type checkers",
        "numpy/_core/_*tests.*": "tests",
        "numpy/_core/_simd.*": "tests",
        "numpy/distutils/*": "builds packages",
    },
    "pyarrow": {
        "pyarrow/*.p[xy][dix]": "sources of what is compiled",
        "pyarrow/include*/*": "for compilers",
        "pyarrow/src/*": "for compilers",
        "pyarrow/libarrow_python*.so": "a second copy for linkers; what is loaded has a number",
        "pyarrow/libarrow_python*.so.*.*.*": "a third copy",
        "pyarrow/*flight*": "a network protocol of Arrow",
        "pyarrow/*s3*": "object storage goes through fsspec",
        "pyarrow/_pyarrow_cpp_tests*": "tests",
        "pyarrow/_acero.*": "a query engine; Parquet is all that is written",
        "pyarrow/_azurefs.*": "object storage goes through fsspec",
        "pyarrow/_csv.*": "Parquet is all that is written",
        "pyarrow/_dataset*": "Parquet is all that is written",
        "pyarrow/_feather.*": "Parquet is all that is written",
        "pyarrow/_gcsfs.*": "object storage goes through fsspec",
        "pyarrow/_hdfs.*": "object storage goes through fsspec",
        "pyarrow/_orc.*": "Parquet is all that is written",
    },
    "pygments": {"pygments/lexers/[a-z]*": "languages: nothing here colours source code"},
    "sqlalchemy": {
        "sqlalchemy/dialects/m[sy]*sql/*": "the store speaks to PostgreSQL and SQLite",
        "sqlalchemy/dialects/oracle/*": "the store speaks to PostgreSQL and SQLite",
        "sqlalchemy/orm/*": "the store writes SQL and maps no objects",
        "sqlalchemy/testing/*": "for the tests of dialects",
    },
    "uvloop": {"uvloop/*.p[xy][dx]": "sources of what is compiled"},
}
"""Distribution -> pattern of its files -> why nothing here needs them."""

DROPPED = {
    "aiohttp": "of kubernetes/aio",
    "aiohttp-retry": "of kubernetes/aio",
    "aiohappyeyeballs": "of aiohttp",
    "aiosignal": "of aiohttp",
    "frozenlist": "of aiohttp",
    "multidict": "of aiohttp",
    "propcache": "of aiohttp",
    "yarl": "of aiohttp",
}
"""Distributions that only something pruned asks for; what needs them installs them again."""

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
"""Prints the files of the modules that lib/tuneloop/k8s/checks loads."""

_PT_LOAD = 1

TESTS = ("*/tests/*", "*/_tests/*")
"""Of every package."""


def distributions(site: Path) -> dict[str, Path]:
    """Name of each installed distribution, in PEP 503's form -> its dist-info folder."""
    names = {}
    for folder in site.glob("*.dist-info"):
        name = folder.name.removesuffix(".dist-info").rsplit("-", 1)[0]
        names[re.sub(r"[-_.]+", "-", name).lower()] = folder
    return names


def needed(site: Path) -> set[str]:
    """Files below site-packages that stay whatever the table says."""
    command = [sys.executable, "-B", "-c", NEEDED]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = {Path(line) for line in done.stdout.splitlines()}
    return {path.relative_to(site).as_posix() for path in lines if path.is_relative_to(site)}


def prune(site: Path, name: str, info: Path, keep: set[str]) -> int:
    """Delete what the tables name of one distribution.

    Args:
        site: the site-packages folder.
        name: the distribution's.
        info: its dist-info folder.
        keep: files that stay.

    Returns:
        How many bytes.
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
            " look at what this version installs and correct images/prune.py"
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
    """Whether the loader can map an ELF64 file: offset and address agree within the alignment.

    `strip` breaks that in files that patchelf has worked on, as most in manylinux wheels.
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
    """Take symbols that only a debugger reads out of shared objects that stay loadable.

    Returns:
        How many bytes.
    """
    program = shutil.which("strip")
    if program is None:
        print("prune: there is no strip in BUILD_IMAGE: symbols stay", file=sys.stderr)
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
    """What held nothing but pruned files."""
    for folder in sorted((path for path in site.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def main() -> None:
    """Prune, strip, and say how much it was."""
    site = Path(sys.argv[1])
    installed = distributions(site)
    keep = needed(site) if "kubernetes" in installed else set()
    pruned = sum(prune(site, name, info, keep) for name, info in installed.items())
    stripped = strip(site)
    remove_empty_folders(site)
    print(f"prune: {pruned / 1e6:.0f} MB of files, {stripped / 1e6:.0f} MB of symbols")


if __name__ == "__main__":
    main()
