"""Find the modules of this project that a module can import, by scanning source text.

Import statements are matched at any depth, so lazy imports and imports for type checkers count
too. Module names inside strings are ignored, because a table that loads modules by name
(`stages/table.py`) would otherwise connect every stage with every other stage.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from tuneloop import resources

# A regular expression, because parsing with `ast` takes twenty times as long and `tuneloop plan`
# has to answer within half a second.
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+((?:tuneloop|jobs)\b[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)"
    r"|import[ \t]+((?:tuneloop|jobs)\b[\w.]*))",
    re.MULTILINE,
)
_TEMPLATE = re.compile(r"\"([\w/]+(?:\.\w+)+\.j2)\"")
_NAME = re.compile(r"(\w+)(?:[ \t]+as[ \t]+\w+)?")


def import_closure(*modules: str) -> dict[str, Path]:
    """Collect modules and all modules of this project that they can import.

    Args:
        modules: dotted names of modules in `tuneloop` or `jobs`.

    Returns:
        Dotted name -> source file, sorted by name. The packages that contain the modules are
        included.

    Raises:
        ModuleNotFoundError: one of the modules does not exist.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = module_file(name)
        if path is None:
            raise ModuleNotFoundError(f"no module {name} in this project", name=name)
        found[name] = path
        waiting += imported_modules(path)
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    return dict(sorted(found.items()))


@functools.cache
def module_file(name: str) -> Path | None:
    """Return the source file of a module of this project, or None if the module does not exist."""
    first, _, rest = name.partition(".")
    top = resources.code_folder() / "jobs" if first == "jobs" else resources.package_folder()
    path = top.joinpath(*rest.split(".")) if rest else top
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def imported_modules(path: Path) -> tuple[str, ...]:
    """Return the modules of this project that a source file imports directly."""
    return tuple(dict.fromkeys(_imports(path.read_text("utf-8"))))


@functools.cache
def named_templates(path: Path) -> tuple[Path, ...]:
    """Return the Jinja templates that a source file names by their path inside the package."""
    found = (
        resources.package_folder() / name for name in _TEMPLATE.findall(path.read_text("utf-8"))
    )
    return tuple(template for template in found if template.is_file())


def _imports(text: str) -> Iterator[str]:
    for package, names, module in _IMPORT.findall(text):
        yield package or module
        for name in _NAME.findall(names.partition("#")[0]):
            if module_file(f"{package}.{name}"):
                yield f"{package}.{name}"
