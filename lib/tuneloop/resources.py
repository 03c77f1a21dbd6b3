"""Find the files that ship with the code: manifests, configs, eval sets, lock files and jobs.

In a checkout these files are at the top level. In an installed wheel, the data is inside the
package (`tuneloop/_data`, see setup.py) and `jobs` is next to the package. The current folder
matters only to `input_url`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent.parent


def is_checkout() -> bool:
    """Return whether the code runs from a checkout rather than from an installed wheel."""
    return (_CHECKOUT / "jobs" / "__main__.py").is_file() and _PACKAGE.parent.name == "lib"


def data_path(name: str) -> Path:
    """Return the path of a data file or folder, whether or not it exists.

    Args:
        name: path relative to a checkout, such as `manifests/k8s` or `eval/demo_v1.jsonl`.
    """
    return (_CHECKOUT if is_checkout() else _PACKAGE / "_data") / name


def code_folder() -> Path:
    """Return the folder that contains the package `jobs`; run `python -m jobs` in this folder."""
    return _CHECKOUT if is_checkout() else _PACKAGE.parent


def package_folder() -> Path:
    """Return the folder of the package `tuneloop`."""
    return _PACKAGE


def input_url(url: str) -> str:
    """Resolve the URL of an input that a spec names.

    A relative path that does not exist in the current folder, but ships with the code (such as
    `eval/demo_v1.jsonl`), becomes the path of the shipped file. Any other URL is returned
    unchanged.
    """
    if "://" in url or Path(url).is_absolute() or Path(url).exists():
        return url
    found = data_path(url)
    return str(found) if found.is_file() else url
