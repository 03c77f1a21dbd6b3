"""Give one module of a model another class, or one function other globals."""

from __future__ import annotations

import types
from typing import Any


def with_globals(function: Any, **names: Any) -> Any:
    """Copy a function, with some of the global names that it uses replaced."""
    copy = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def subclass(base: type, **members: Any) -> type:
    """Derive a class with other members and the same name, which Tunix looks up in places."""
    return type(base.__name__, (base,), {"__module__": base.__module__, **members})


def set_class(module: Any, new_class: type) -> None:
    """Change the class of one module to a subclass of its present one."""
    object.__setattr__(module, "__class__", new_class)
