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
from typing import NamedTuple

PRUNED = {
    "aiohttp": {"aiohttp/web*": "a server", "aiohttp/test_utils.py": "tests"},
    "alembic": {"alembic/testing/*": "tests"},
    "botocore": {
        "botocore/cacert.pem": "the certificates of certifi are used",
        "botocore/data/*/*": "KEPT keeps the services that s3fs and its credentials use",
    },
    "cffi": {"cffi/*": "compiles modules; cryptography loads only _cffi_backend"},
    "duckdb": {"duckdb/experimental/*": "emulates the API of Spark"},
    "fastapi-offline": {"fastapi_offline/static/redoc*": "the store shows Swagger UI"},
    "google-api-core": {
        "google/api_core/resumable_transfer/*": "google-cloud-storage has its own",
    },
    "google-resumable-media": {
        "google/_async_resumable_media/*": "google-cloud-storage has its own",
        "google/resumable_media/requests/*": "google-cloud-storage has its own",
    },
    "grpcio": {
        "grpc/_cython/_credentials/*": "gcsfs imports grpc, but calls are made over HTTP",
        "grpc/beta/*": "an API of old releases",
        "grpc/framework/*": "an API of old releases",
    },
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
        "numpy/_core/_*tests.*": "tests",
        "numpy/_core/_simd.*": "tests",
        "numpy/_core/include/*": "for compilers",
        "numpy/*/lib/*.a": "for compilers",
        "numpy/distutils/*": "builds packages",
        "numpy/f2py/*": "builds packages from Fortran",
    },
    "pyarrow": {
        "pyarrow/include*/*": "for compilers",
        "pyarrow/src/*": "for compilers",
        "pyarrow/libarrow_python*.so": "a second copy for linkers; the loaded file has a number",
        "pyarrow/libarrow_python*.so.*.*.*": "a third copy",
        "pyarrow/*flight*": "a network protocol of Arrow",
        "pyarrow/*s3*": "object storage goes through fsspec",
        "pyarrow/_pyarrow_cpp_tests*": "tests",
        "pyarrow/*_acero.*": "a query engine",
        "pyarrow/_azurefs.*": "object storage goes through fsspec",
        "pyarrow/_csv.*": "Parquet and Arrow are read and written without it",
        "pyarrow/*_dataset*": "Parquet and Arrow are read and written without it",
        "pyarrow/_feather.*": "Parquet and Arrow are read and written without it",
        "pyarrow/_gcsfs.*": "object storage goes through fsspec",
        "pyarrow/_hdfs.*": "object storage goes through fsspec",
        "pyarrow/_orc.*": "Parquet and Arrow are read and written without it",
        "pyarrow/_parquet_encryption.*": "tuneloop encrypts no columns",
        "pyarrow/*_substrait.*": "plans of other query engines",
    },
    "pydantic": {"pydantic/v1/*": "the API of pydantic 1", "pydantic/mypy.py": "for mypy"},
    "pygments": {
        "pygments/lexers/[a-z]*": "tuneloop does not highlight source code",
        "pygments/lexers/_[a-ln-z]*": "words of the languages of these lexers",
    },
    "sqlalchemy": {
        "sqlalchemy/dialects/m[sy]*sql/*": "the store uses only PostgreSQL and SQLite",
        "sqlalchemy/dialects/oracle/*": "the store uses only PostgreSQL and SQLite",
        "sqlalchemy/ext/[abd-z]*": "asyncio, and extensions of object mapping",
        "sqlalchemy/orm/*": "the store uses SQL without object mapping",
        "sqlalchemy/testing/*": "for the tests of dialects",
    },
    "wrapt": {"wrapt/*.c": "sources of compiled modules"},
}
"""Distribution -> pattern of files to delete -> reason why tuneloop does not need them."""

KEPT = {
    "botocore": {
        "botocore/data/s3/*": "the objects themselves",
        "botocore/data/signin/*": "credentials of `aws login`",
        "botocore/data/sso-oidc/*": "credentials of `aws sso login`",
        "botocore/data/sso/*": "credentials of `aws sso login`",
        "botocore/data/sts/*": "credentials of a role, such as that of a ServiceAccount",
    },
}
"""Distribution -> pattern of files that stay although PRUNED matches them -> who needs them."""

DROPPED = {
    "aiohttp-retry": "required by kubernetes/aio",
    "pyasn1": "required by pyasn1-modules",
    "pyasn1-modules": "signs for google-auth where there is no cryptography",
    "pycparser": "required by cffi to compile modules",
}
"""Distribution that only deleted files need, or none -> reason."""

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

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB = 1, 5

EVERYWHERE = {
    "*/tests/*": "tests",
    "*/_tests/*": "tests",
    "*.pyi": "for type checkers",
    "*.p[xy][dx]": "sources of compiled modules",
    "*.proto": "sources of generated modules",
}
"""Pattern of files that are deleted from every package -> reason."""


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
    paths, gone = [path for path, *_ in rows], set()
    unmatched = {*PRUNED.get(name, {}), *KEPT.get(name, {})}
    if name in DROPPED:
        gone = set(paths)
    for pattern in (*PRUNED.get(name, {}), *EVERYWHERE):
        matched = fnmatch.filter(paths, pattern)
        unmatched -= {pattern} if matched else set()
        gone.update(set(matched) - keep)
    for pattern in KEPT.get(name, {}):
        matched = fnmatch.filter(paths, pattern)
        unmatched -= {pattern} if matched else set()
        gone -= set(matched)
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
    libraries = {Path(path).name for path in gone if ".so" in path}
    for path in set(paths) - gone if libraries else ():
        if ".so" in path and (site / path).is_file():
            unlink_libraries(site / path, libraries)
    if gone and record.is_file():
        kept = io.StringIO()
        csv.writer(kept, lineterminator="\n").writerows(row for row in rows if row[0] not in gone)
        record.write_text(kept.getvalue(), "utf-8")
    return size


class Segment(NamedTuple):
    """One program header of an ELF64 file."""

    kind: int
    offset: int
    address: int
    size: int
    align: int


def segments(data: bytes) -> list[Segment]:
    """Return the program headers of an ELF64 file; none if it is another file."""
    if data[:5] != b"\x7fELF\x02":
        return []
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = (struct.unpack_from("<IIQQQQQQ", data, start + n * size) for n in range(count))
    return [
        Segment(kind, offset, at, held, align) for kind, _, offset, at, _, held, _, align in headers
    ]


def is_loadable(path: Path) -> bool:
    """Return whether the loader can map an ELF64 file.

    Offset and address of each segment must be equal modulo the alignment. `strip` breaks this in
    files that patchelf has changed, such as most files in manylinux wheels.
    """
    found = segments(path.read_bytes())
    loaded = [each for each in found if each.kind == _PT_LOAD]
    return bool(found) and not any((s.offset - s.address) % max(s.align, 1) for s in loaded)


def unlink_libraries(path: Path, names: set[str]) -> None:
    """Remove deleted libraries from the list of libraries that a shared object needs.

    Arrow links every module to every library, whether the module uses it or not. The Dockerfile
    then imports the modules with LD_BIND_NOW, which fails if a symbol is missing.
    """
    data = bytearray(path.read_bytes())
    found = segments(bytes(data))
    for dynamic in (each for each in found if each.kind == _PT_DYNAMIC):
        end = dynamic.offset + dynamic.size
        entries = list(struct.iter_unpack("<QQ", data[dynamic.offset : end]))
        strings = _offset_of(found, dict(entries)[_DT_STRTAB])
        kept = b""
        for tag, value in entries:
            start = strings + value
            is_needed = tag == _DT_NEEDED
            if not is_needed or data[start : data.index(0, start)].decode() not in names:
                kept += struct.pack("<QQ", tag, value)
        # Empty entries end the list.
        data[dynamic.offset : end] = kept.ljust(dynamic.size, b"\0")
        path.write_bytes(data)


def _offset_of(found: list[Segment], address: int) -> int:
    """Return the position in the file of an address in memory."""
    return next(
        address - each.address + each.offset
        for each in found
        if each.kind == _PT_LOAD and 0 <= address - each.address < each.size
    )


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
