"""Templates to self-contained pages: no script, style, font or image comes from anywhere else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Shown:
    """A figure on a page, drawn once for wide and once for narrow screens."""

    name: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup
    remark: str = ""


@cache
def _environment() -> Environment:
    loader = PackageLoader("batchscale", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@cache
def _shipped(name: str) -> str:
    return (resources.files("batchscale") / "templates" / name).read_text(encoding="utf-8")


def render(template: str, **values: object) -> bytes:
    """One page as UTF-8. Every value is escaped, except SVG that `embed.inline` made.

    The content-security policy allows the page's own script by its hash and no connection at all.
    """
    script = _shipped("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template(template)
    own = {"css": Markup(_shipped("page.css")), "script": Markup(script), "script_hash": f"sha256-{digest}"}  # noqa: S704
    return page.render(**own, **values).encode()


def data_address(content: bytes, media_type: str) -> str:
    """A `data:` URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
