"""Test the inputs of image builds and the pruning of packages, without root or a builder."""

from __future__ import annotations

import configparser
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from images import build, prune


def test_pips_index_goes_in_and_this_machines_paths_do_not() -> None:
    listing = "\n".join(
        [
            "global.cache-dir='/home/me/cache'",
            "global.index-url='https://me:p%40ss@index.example/simple'",
            "install.trusted-host='index.example'",
            ":env:.default-timeout='180'",
            ":env:.index-url='https://other.example/simple'",
            ":env:.cert='/etc/ssl/ca.pem'",
        ]
    )
    assert build.index_options(listing) == {
        "index-url": "https://other.example/simple",
        "trusted-host": "index.example",
        "timeout": "180",
        "cert": "/etc/ssl/ca.pem",
    }


def test_secrets_are_files_and_a_certificate_is_found_where_it_is_mounted(tmp_path: Path) -> None:
    password = "100%secret"
    options = {"index-url": f"https://me:{password}@index.example/simple", "cert": "/etc/ca.pem"}
    arguments = build.write_secrets(options, tmp_path)
    assert password not in " ".join(arguments)
    assert "id=cacert,src=/etc/ca.pem" in arguments
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(tmp_path / "pip.conf")
    assert dict(parser["global"]) == {**options, "cert": "/run/secrets/cacert"}
    assert stat.S_IMODE((tmp_path / "pip.conf").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("target", "variant", "tag"),
    [("base", "cuda", "1.0"), ("train", "cpu", "1.0"), ("train", "cuda", "1.0-cuda")],
)
def test_an_image_for_chips_is_tagged_so(target: str, variant: str, tag: str) -> None:
    assert build.default_tag(target, {"VERSION": "1.0", "JAX_VARIANT": variant}) == tag


def distribution(site: Path, name: str, *files: str) -> Path:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = []
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text("x")
        lines.append(f"{file},sha256=abc,1")
    (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/RECORD,,"]) + "\n")
    return info


def test_pruning_deletes_files_and_their_rows(tmp_path: Path) -> None:
    info = distribution(
        tmp_path, "duckdb", "duckdb/a.py", "duckdb/experimental/b.py", "t/tests/c.py"
    )
    assert prune.distributions(tmp_path) == {"duckdb": info}
    assert prune.prune(tmp_path, "duckdb", info, set()) == 2
    assert (info / "RECORD").read_text() == (
        "duckdb/a.py,sha256=abc,1\nduckdb-1.0.dist-info/RECORD,,\n"
    )
    prune.remove_empty_folders(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["duckdb", info.name]


def test_what_is_needed_stays(tmp_path: Path) -> None:
    info = distribution(tmp_path, "duckdb", "duckdb/experimental/b.py")
    assert prune.prune(tmp_path, "duckdb", info, {"duckdb/experimental/b.py"}) == 0
    assert (tmp_path / "duckdb/experimental/b.py").is_file()


def test_what_object_stores_need_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(prune.PRUNED, "x", {"x/data/*/*": "all"})
    monkeypatch.setitem(prune.KEPT, "x", {"x/data/s3/*": "one"})
    info = distribution(tmp_path, "x", "x/data/s3/a", "x/data/s3control/a", "x/data/b.json")
    assert prune.prune(tmp_path, "x", info, set()) == 1
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("x/**/*.json")}
    assert left == {"x/data/b.json"}
    assert (tmp_path / "x/data/s3/a").is_file()
    assert "s3control" not in (info / "RECORD").read_text()
    monkeypatch.setitem(prune.KEPT, "x", {"x/data/sts/*": "absent"})
    with pytest.raises(SystemExit, match=r"no file matches x/data/sts/\*"):
        prune.prune(tmp_path, "x", info, set())


def test_a_module_forgets_a_deleted_library(tmp_path: Path) -> None:
    """A module of Arrow, which needs a library that does not exist."""
    import pyarrow

    (original,) = Path(pyarrow.__file__).parent.glob("_json.*.so")
    module = tmp_path / "pyarrow" / original.name
    module.parent.mkdir()
    module.write_bytes(
        original.read_bytes().replace(b"libarrow_substrait.", b"libarrow_absentlib.")
    )
    library = next(original.parent.glob("libarrow_substrait.so.*")).name.replace(
        "substrait", "absentlib"
    )
    load = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(module)]
    env = os.environ | {"LD_LIBRARY_PATH": str(original.parent), "LD_BIND_NOW": "1"}
    done = subprocess.run(load, capture_output=True, text=True, check=False, env=env)
    assert f"{library}: cannot open shared object file" in done.stderr
    size = module.stat().st_size
    prune.unlink_libraries(module, {library, "libother.so"})
    done = subprocess.run(load, capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert module.stat().st_size == size
    (tmp_path / "no.so").write_text("INPUT ( libc.so )")
    prune.unlink_libraries(tmp_path / "no.so", {library})


def test_a_line_of_the_table_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    info = distribution(tmp_path, "duckdb", "duckdb/a.py")
    with pytest.raises(SystemExit, match=r"no file matches duckdb/experimental/\*"):
        prune.prune(tmp_path, "duckdb", info, set())


def test_a_dropped_distribution_leaves_nothing(tmp_path: Path) -> None:
    info = distribution(tmp_path, "pycparser", "pycparser/a.py")
    prune.prune(tmp_path, "pycparser", info, set())
    prune.remove_empty_folders(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_loader_cannot_map_is_told_apart(tmp_path: Path) -> None:
    """An extension, and the same with its first segment moved as `strip` moves them."""
    import msgspec._core  # type: ignore[import-not-found]

    good = Path(msgspec._core.__file__)
    data = bytearray(good.read_bytes())
    headers = int.from_bytes(data[32:40], "little")
    (load,) = [at for at in (headers + 56 * n for n in range(20)) if data[at] == 1][:1]
    data[load + 8] ^= 8  # p_offset
    bad = tmp_path / "bad.so"
    bad.write_bytes(data)
    assert prune.is_loadable(good)
    assert not prune.is_loadable(bad)
    load_it = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])"]
    for path, code in ((good, 0), (bad, 1)):
        done = subprocess.run([*load_it, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    assert "not page-aligned" in done.stderr


def test_what_is_no_program_is_not_loadable(tmp_path: Path) -> None:
    (tmp_path / "script.so").write_text("INPUT ( libc.so )")
    assert not prune.is_loadable(tmp_path / "script.so")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_VARIANT": "rocm", "TUNIX_REF": ""}, "expected cpu, cuda or tpu"),
        ({"JAX_VARIANT": "cpu", "TUNIX_REF": "main"}, "expected a full commit"),
        ({"JAX_VARIANT": "cpu", "TUNIX_REF": "abc123"}, "expected a full commit"),
        ({"JAX_VARIANT": "cpu", "TUNIX_REF": "a" * 41}, "expected a full commit"),
        (
            {"JAX_VARIANT": "cpu", "TUNIX_REF": "", "METRICS_SINK": "wandb"},
            "expected mlflow or nothing",
        ),
    ],
)
def test_arguments_that_make_no_sense_end_the_build(
    environment: dict[str, str], message: str, repository: Path
) -> None:
    install = [str(repository / "images" / "install"), "--train"]
    done = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_context_is_what_is_named(repository: Path) -> None:
    """The build context contains exactly the files that the Dockerfile copies."""
    lines = (repository / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for line in (repository / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= {word.split("/")[0] for word in line.split()[1:-1]}
    assert copied == let_in
    assert "*" in lines
    assert all((repository / name).exists() for name in copied)
