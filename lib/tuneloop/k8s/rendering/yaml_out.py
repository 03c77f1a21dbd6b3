"""Write YAML that every YAML reader understands in the same way.

A string is written without quotes only if no YAML reader could take it for another type. PyYAML
follows YAML 1.1 and does not quote `12345e67`, `0o17` or `y`, but kubectl reads them as numbers and
booleans. About one git hash in eighty would change its type.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})
_BREAKS = frozenset("\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\ufeff")
_WIDE = 2**20


# The emitter of libyaml writes the same text four times faster. Every PyYAML wheel includes it.
_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]  # chosen at import
    """A dumper with its own representers, so that PyYAML's global ones are not changed."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write shared values in full instead of as an anchor and aliases."""
        return True


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if not _BREAKS.isdisjoint(text):
        style: str | None = '"'  # readers disagree on line ends, but not on escapes
    elif "\n" in text:
        style = "|"
    elif text[:1].isascii() and text[:1].isalpha() and text.lower() not in _WORDS:
        style = None  # PyYAML still adds quotes if plain style cannot represent the text
    else:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_str)


def dump(documents: Iterable[dict[str, Any]]) -> str:
    """Write documents separated by `---`; keys keep their order."""
    return yaml.dump_all(
        documents,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=_WIDE,
        line_break="\n",
    )
