"""Find the files that travel with the code: manifests, configs, eval sets, locks, the jobs.

In a checkout they lie at its top. In an installed wheel the data lies inside the package
(`tuneloop/_data`, see setup.py) and `jobs` beside it. Nothing depends on the current folder.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent.parent


def is_checkout() -> bool:
    """Whether the code runs from a checkout rather than from an installed wheel."""
    return (_CHECKOUT / "jobs" / "__main__.py").is_file() and _PACKAGE.parent.name == "lib"


def data_path(name: str) -> Path:
    """Return where a data file or folder lies, whether or not it exists.

    Args:
        name: path as in a checkout, such as `manifests/k8s` or `eval/demo_v1.jsonl`.
    """
    return (_CHECKOUT if is_checkout() else _PACKAGE / "_data") / name


def code_folder() -> Path:
    """Return the folder that holds the package `jobs`, where `python -m jobs` finds it first."""
    return _CHECKOUT if is_checkout() else _PACKAGE.parent


def package_folder() -> Path:
    """Return the folder of the package `tuneloop`."""
    return _PACKAGE


def input_url(url: str) -> str:
    """Return where an input that a spec names is read from.

    A relative path that does not exist here but travels with the code, such as
    `eval/demo_v1.jsonl`, means the latter; anything else is returned as it is.
    """
    if "://" in url or Path(url).is_absolute() or Path(url).exists():
        return url
    found = data_path(url)
    return str(found) if found.is_file() else url
