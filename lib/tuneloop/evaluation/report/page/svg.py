"""Draw matplotlib figures as SVG elements of an HTML page: small, themed and deterministic.

Colors are variables of the page's style sheet, so that one picture fits light and dark. Styles are
attributes, because the page's policy forbids inline styles.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, LINE, BASE, TUNED, OTHER = (f"#0{n}0{n}0{n}" for n in range(1, 7))
"""Placeholders of the page's colors."""
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", BASE: "base", TUNED: "tuned", OTHER: "other"}
WIDTH_INCHES = 5.6
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.borderaxespad": 0.0,
    "lines.linewidth": 1.6,
}


def draw(name: str, alt: str, height_inches: float, plot: Callable[[Axes], None]) -> Markup:
    """Draw one picture.

    Args:
        name: short name, from which the ids in the picture are made.
        alt: text for readers who do not see the picture.
        height_inches: height at a width of WIDTH_INCHES.
        plot: draws on the axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # Fonts without a glyph matter only for its width: the browser draws the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        plot(figure.subplots())
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return Markup(_cleaned(out.getvalue(), alt))


def _cleaned(data: bytes, alt: str) -> str:
    root = ElementTree.fromstring(data)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("stroke-linejoin", "round")
    root.set("role", "img")
    root.set("aria-label", alt)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    used = {link[1:] for each in root.iter() if (link := each.get(_LINK, ""))}
    used |= set(re.findall(r"url\(#([^)]+)\)", data.decode()))
    for each in root.iter():
        each.tag = each.tag.rpartition("}")[2]  # in HTML, the namespace is implied
        if "id" in each.attrib and each.attrib["id"] not in used:
            del each.attrib["id"]
        if _LINK in each.attrib:
            each.set("href", each.attrib.pop(_LINK))
        _style_to_attributes(each)
    text = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r">\s+<", "><", text)


def _style_to_attributes(element: ElementTree.Element) -> None:
    for part in element.attrib.pop("style", "").split(";"):
        name, _, value = part.partition(":")
        name, value = name.strip(), value.strip()
        if name == "font":
            name, value = "font-size", value.split("px", 1)[0].rsplit(" ", 1)[-1]
        if name and name != "stroke-miterlimit":
            element.set(name, value)
    for name in ("fill", "stroke"):
        variable = _VARIABLES.get(element.get(name, ""))
        if variable is not None:
            element.set(name, f"var(--{variable})")
