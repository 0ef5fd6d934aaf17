"""A drawn figure as a part of a page: inline SVG in the page's own colours, with a named point for every row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from markupsafe import Markup

from batchscale.analysis.figures import style
from batchscale.analysis.figures.drawing import CELL_ID

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_DROPPED = (f"{{{SVG}}}metadata", f"{{{SVG}}}style")
_DRAWN = ("d", "x", "y", "transform")
_LONG_NUMBER = re.compile(r"(\d+\.\d\d)\d+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_COLORS = {
    style.INK: "currentColor",
    style.MUTED: "var(--muted)",
    style.GRID: "var(--grid)",
    style.PAPER: "var(--card)",
}

ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)


def inline(svg: bytes, name: str, label: str, rows: Mapping[int, str]) -> Markup:
    """An `<svg>` element for a page.

    Args:
        svg: a file written by matplotlib here, not a stranger's.
        name: prefixed to every id, which must differ between the drawings of a page.
        label: what the figure shows, for those who do not see it.
        rows: by batch size, what pointing at it says.
    """
    root = ET.fromstring(svg)  # noqa: S314 - written by this process a moment ago
    for dropped in [child for child in root.iter() for child in child if child.tag in _DROPPED]:
        _parent_of(root, dropped).remove(dropped)
    for element in root.iter():
        _localise(element, name)
        _name_point(element, rows)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    text = ET.tostring(root, encoding="unicode")
    for drawn, shown in _COLORS.items():
        text = text.replace(drawn, shown)
    return Markup(text)  # noqa: S704 - serialised XML: every text and attribute in it is escaped


def _parent_of(root: ET.Element, child: ET.Element) -> ET.Element:
    return next(parent for parent in root.iter() if child in list(parent))


def _localise(element: ET.Element, name: str) -> None:
    for key, value in element.attrib.items():
        if key == "id" and not value.startswith(CELL_ID):
            element.attrib[key] = f"{name}-{value}"
        elif key == f"{{{XLINK}}}href" and value.startswith("#"):
            element.attrib[key] = f"#{name}-{value[1:]}"
        elif "url(#" in value:
            element.attrib[key] = _REFERENCE.sub(rf"url(#{name}-\1)", value)
        elif key in _DRAWN:
            element.attrib[key] = _LONG_NUMBER.sub(r"\1", value)


def _name_point(element: ET.Element, rows: Mapping[int, str]) -> None:
    identity = element.attrib.get("id", "")
    if not identity.startswith(CELL_ID):
        return
    size = identity.removeprefix(CELL_ID)
    element.attrib.pop("id")
    element.attrib |= {"class": "point", "data-batch-size": size}
    title = ET.Element(f"{{{SVG}}}title")
    title.text = rows.get(int(size), f"batch size {size}")
    element.insert(0, title)
