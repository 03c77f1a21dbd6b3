"""YAML that every reader understands the same way.

One rule: a string is written plain only if no YAML reader could take it for something else. PyYAML
follows YAML 1.1 and leaves `12345e67`, `0o17` or `y` bare; kubectl reads them as numbers and
booleans, so about one git hash in eighty would change its type.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})
_BREAKS = frozenset("\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\ufeff")
_WIDE = 2**20


# libyaml's emitter writes the same text four times faster; every wheel of PyYAML has it.
_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]  # chosen at import
    """A dumper of our own: PyYAML's global representers stay as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values twice rather than as an anchor and an alias."""
        return True


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if not _BREAKS.isdisjoint(text):
        style: str | None = '"'  # readers differ on what ends a line; escaped, nothing does
    elif "\n" in text:
        style = "|"
    elif text[:1].isascii() and text[:1].isalpha() and text.lower() not in _WORDS:
        style = None  # PyYAML still quotes what plain style cannot hold
    else:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_str)


def dump(documents: Iterable[dict[str, Any]]) -> str:
    """Write documents, `---` between them, keys in the order given."""
    return yaml.dump_all(
        documents,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=_WIDE,
        line_break="\n",
    )
