"""Packages of the wheel: the library, the jobs, and the data files that travel with the code.

Everything else is declared in pyproject.toml. The data lies at the top of a checkout, where people
look for it; the wheel holds a copy in `tuneloop/_data`, which `tuneloop.resources` finds.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

DATA = {
    "eval": ("*.jsonl", "README.md"),
    "jobs/configs": ("*.yaml",),
    "manifests/k8s": ("**/*.yaml",),
    "requirements": ("base.txt", "train.txt"),
}
"""Folder -> the files in it that are package data."""


class BuildWithData(build_py):
    """Copies the data files beside the modules."""

    def run(self) -> None:
        """Build the modules, then copy the data; an editable install uses the checkout's."""
        super().run()
        if self.editable_mode:
            return
        for source, target in self._data():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target, preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the files of the build, the copies included."""
        copies = [] if self.editable_mode else [target for _, target in self._data()]
        return [*super().get_outputs(include_bytecode), *copies]

    def _data(self) -> list[tuple[str, str]]:
        files = (
            path
            for folder, patterns in DATA.items()
            for pattern in patterns
            for path in sorted(Path(folder).glob(pattern))
        )
        into = Path(self.build_lib, "tuneloop", "_data")
        return [(str(path), str(into / path)) for path in files]


setup(
    packages=[*find_packages("lib"), "jobs"],
    package_dir={"": "lib", "jobs": "jobs"},
    cmdclass={"build_py": BuildWithData},
)
