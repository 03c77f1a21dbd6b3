"""The minimum Tunix set: what Tunix declares without LEFT_OUT (docs/explanation/adr/0002)."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

LEFT_OUT = {  # Names of distributions -> modules that must not be importable.
    "datasets": "datasets",
    "grain": "grain",
    "hf_transfer": "hf_transfer",
    "importlib_resources": "importlib_resources",
    "kagglehub": "kagglehub",
    "numba": "numba",
    "omegaconf": "omegaconf",
    "pylatexenc": "pylatexenc",
    "python-dotenv": "dotenv",
    "sympy": "sympy",
    "tensorflow_datasets": "tensorflow_datasets",
    "transformers": "transformers",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirement: str) -> str:
    return canonical(re.split(r"[\s<>=!~;\[@(]", requirement.strip(), maxsplit=1)[0])


@pytest.fixture(scope="module")
def kept(repository: Path) -> set[str]:
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    (tunix,) = (
        each
        for each in project["tool"]["uv"]["dependency-metadata"]
        if each["name"] == "google-tunix"
    )
    assert tunix["version"] == metadata.version("google-tunix")
    return {named(requirement) for requirement in tunix["requires-dist"]}


def test_every_requirement_of_tunix_is_kept_or_left_out_on_purpose(kept: set[str]) -> None:
    declared = {
        named(requirement)
        for requirement in metadata.requires("google-tunix") or []
        if "extra ==" not in requirement
    }
    left_out = {canonical(name) for name in LEFT_OUT}
    assert not declared - kept - left_out, "new requirements of Tunix: keep them or leave them out"
    assert not left_out - declared, "no longer required by Tunix: take them off the list"
    assert not kept & left_out


BROUGHT_BY_OTHERS = {"dotenv", "importlib_resources", "sympy", "transformers"}
"""Packages that mlflow-skinny, kubernetes-validate, math-verify and mlx-lm install."""


@pytest.mark.parametrize("module", sorted(set(LEFT_OUT.values()) - BROUGHT_BY_OTHERS))
def test_what_is_left_out_is_not_installed(module: str) -> None:
    """Otherwise the training tests would not prove that the set is sufficient."""
    assert find_spec(module) is None


IMPORT_ALL_OF_TRAINING = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import tuneloop.training
for module in pkgutil.walk_packages(tuneloop.training.__path__, "tuneloop.training."):
    importlib.import_module(module.name)
assert "tunix" in sys.modules
"""


@pytest.mark.slow
def test_training_is_imported_without_what_is_left_out(repository: Path) -> None:
    """Including the packages that only the tests' environment has."""
    command = [sys.executable, "-c", IMPORT_ALL_OF_TRAINING, *LEFT_OUT.values()]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("lock", ["train.txt", "train-cuda.txt", "train-tpu.txt"])
def test_the_train_locks_have_neither_what_is_left_out_nor_the_cluster_client(
    lock: str,
    repository: Path,
) -> None:
    """If a Kubernetes client is installed, JAX asks the API server for its peers."""
    lines = (repository / "requirements" / lock).read_text().splitlines()
    locked = {named(line) for line in lines if line and not line.startswith((" ", "#"))}
    assert "jax" in locked
    excluded = {canonical(name) for name in [*LEFT_OUT, "kubernetes"]}
    assert not locked & (excluded - {"sympy"})  # math-verify needs it


ALL = [
    "base.txt",
    "train.txt",
    "train-cuda.txt",
    "train-tpu.txt",
    "dev.txt",
    "audit.txt",
    "inspect.txt",
    "mlflow.txt",
    "smollm2.txt",
    "tasks.txt",
    "torch.txt",
]


def test_every_lock_is_in_the_list_of_this_file(repository: Path) -> None:
    assert {path.name for path in (repository / "requirements").glob("*.txt")} == set(ALL)


@pytest.mark.parametrize("lock", ALL)
def test_locks_are_hashed_and_name_no_host(lock: str, repository: Path) -> None:
    text = (repository / "requirements" / lock).read_text()
    pins = re.findall(r"^[a-z0-9][^\s=]*==\S+", text, flags=re.MULTILINE)
    assert not re.search(r"https?://|--index|--find-links|--extra-index", text)
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(pins) == len(blocks)
    for block in blocks:
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_a_package_has_one_version_in_all_locks(repository: Path) -> None:
    versions: dict[str, set[str]] = {}
    for lock in (repository / "requirements").glob("*.txt"):
        for line in lock.read_text().splitlines():
            if found := re.match(r"^([a-z0-9][^\s=]*)==(\S+)( ;.*?)?( \\)?$", line):
                versions.setdefault(found[1] + (found[3] or ""), set()).add(found[2])
    assert {name: v for name, v in versions.items() if len(v) > 1} == {}


def test_the_base_lock_has_no_jax(repository: Path) -> None:
    names = re.findall(
        r"^([a-z0-9][^\s=]*)==", (repository / "requirements/base.txt").read_text(), re.M
    )
    assert not {"jax", "jaxlib", "google-tunix"} & set(names)


@pytest.mark.parametrize("variant", ["cuda", "tpu"])
def test_a_lock_for_chips_is_the_train_lock_and_what_drives_them(
    variant: str, repository: Path
) -> None:
    def pins(name: str) -> set[str]:
        text = (repository / "requirements" / name).read_text()
        return set(re.findall(r"^([a-z0-9][^\s=]*==[^\s;]+)", text, flags=re.MULTILINE))

    added = {pin.split("==")[0] for pin in pins(f"train-{variant}.txt") - pins("train.txt")}
    assert pins("train.txt") <= pins(f"train-{variant}.txt")
    drives = {"cuda": "jax-cuda12-plugin", "tpu": "libtpu"}[variant]
    assert drives in added


def test_what_drives_chips_has_the_version_that_jax_expects(repository: Path) -> None:
    def version(lock: str, package: str) -> str:
        text = (repository / "requirements" / lock).read_text()
        (found,) = re.findall(rf"^{package}==([^\s;]+)", text, flags=re.MULTILINE)
        return str(found)

    jaxlib = version("train.txt", "jaxlib")
    # JAX ignores a CUDA plugin of another version, and would train on the CPU.
    for package in ("jax-cuda12-plugin", "jax-cuda12-pjrt"):
        assert version("train-cuda.txt", package) == jaxlib
    # The tests compile training steps with the libtpu of the development lock.
    assert version("train-tpu.txt", "libtpu") == version("dev.txt", "libtpu")
