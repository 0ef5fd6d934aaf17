"""Self-contained pages from templates, with drawings as inline SVG: nothing is loaded from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from xml.etree import ElementTree as ET

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from batchscale.analysis.figures import style
from batchscale.analysis.figures.drawing import BATCH_SIZE_ID

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
LARGEST_INLINE_BYTES = 300_000
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


@dataclass(frozen=True)
class PageFigure:
    """A figure on a page.

    Attributes:
        name: part of its id, which links may point to.
        title, caption: above the drawing.
        image: the drawing, an `<svg>` or `<img>` element.
        remark: a second line of the caption; may be empty.
    """

    name: str
    title: str
    caption: str
    image: Markup
    remark: str = ""


@cache
def _environment() -> Environment:
    loader = PackageLoader("batchscale", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@cache
def _shipped(name: str) -> str:
    return (resources.files("batchscale") / "templates" / name).read_text(encoding="utf-8")


def render(template: str, **values: object) -> bytes:
    """Return one page as UTF-8. Every value is escaped, except the SVG that `inline` made.

    The content-security policy allows the page's own script by its hash and no connection at all.
    """
    script = _shipped("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template(template)
    own = {"css": Markup(_shipped("page.css")), "script": Markup(script), "script_hash": f"sha256-{digest}"}  # noqa: S704
    return page.render(**own, **values).encode()


def data_address(content: bytes, media_type: str) -> str:
    """Return the content as a `data:` URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def image(svg: bytes, png: bytes, name: str, alt_text: str, rows: Mapping[int, str]) -> Markup:
    """Return the SVG inline (see `inline`), or the PNG of the same figure where the SVG would make the page slow."""
    if len(svg) <= LARGEST_INLINE_BYTES:
        return inline(svg, name, alt_text, rows)
    return Markup('<img src="{}" alt="{}">').format(data_address(png, "image/png"), alt_text)


def inline(svg: bytes, name: str, alt_text: str, rows: Mapping[int, str]) -> Markup:
    """Return an `<svg>` element in the page's own colours, with a named point for every batch size.

    Args:
        svg: a file written by matplotlib in this process, not one from elsewhere.
        name: prefix of every id, which must differ between the drawings of a page.
        alt_text: what the figure shows, for those who do not see it.
        rows: by batch size, the text to show while a reader points at it.
    """
    root = ET.fromstring(svg)  # noqa: S314 - written by this process a moment ago
    for dropped in [child for child in root.iter() for child in child if child.tag in _DROPPED]:
        _parent_of(root, dropped).remove(dropped)
    for element in root.iter():
        _localise(element, name)
        _name_point(element, rows)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt_text}
    text = ET.tostring(root, encoding="unicode")
    for drawn, shown in _COLORS.items():
        text = text.replace(drawn, shown)
    return Markup(text)  # noqa: S704 - serialised XML: every text and attribute in it is escaped


def _parent_of(root: ET.Element, child: ET.Element) -> ET.Element:
    return next(parent for parent in root.iter() if child in list(parent))


def _localise(element: ET.Element, name: str) -> None:
    """Make ids and references unique to this drawing, and coordinates shorter."""
    for key, value in element.attrib.items():
        if key == "id" and not value.startswith(BATCH_SIZE_ID):
            element.attrib[key] = f"{name}-{value}"
        elif key == f"{{{XLINK}}}href" and value.startswith("#"):
            element.attrib[key] = f"#{name}-{value[1:]}"
        elif "url(#" in value:
            element.attrib[key] = _REFERENCE.sub(rf"url(#{name}-\1)", value)
        elif key in _DRAWN:
            element.attrib[key] = _LONG_NUMBER.sub(r"\1", value)


def _name_point(element: ET.Element, rows: Mapping[int, str]) -> None:
    """Give a point of a batch size the text to show while a reader points at it."""
    identity = element.attrib.get("id", "")
    if not identity.startswith(BATCH_SIZE_ID):
        return
    size = identity.removeprefix(BATCH_SIZE_ID)
    element.attrib.pop("id")
    element.attrib |= {"class": "point", "data-batch-size": size}
    title = ET.Element(f"{{{SVG}}}title")
    title.text = rows.get(int(size), f"batch size {size}")
    element.insert(0, title)
