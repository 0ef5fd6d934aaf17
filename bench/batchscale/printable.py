"""Make untrusted text safe to print: no control character and no terminal escape survives."""

from __future__ import annotations

LONGEST_REASON = 160
"""The most characters to quote of another program's message."""
LONGEST_VALUE = 60
"""The most characters to quote of a value."""


def printable(text: object, longest: int = LONGEST_VALUE) -> str:
    """Quote a value in ASCII, cut to `longest` characters."""
    try:
        shown = ascii(text)
    except RecursionError:
        shown = f"a deeply nested {type(text).__name__}"
    return _cut(shown, longest)


def bare(text: str, longest: int = LONGEST_VALUE) -> str:
    """Quote as `printable` does, but without quotation marks: for names and other programs' messages."""
    return _cut(visible(text[: longest + 1]).encode("ascii", "backslashreplace").decode("ascii"), longest)


def reason(error: Exception) -> str:
    """Return the message of a decoder's error, short and safe enough to be part of one line."""
    return bare(str(error), LONGEST_REASON)


def visible(line: str) -> str:
    """Escape control characters, line ends and undecodable bytes as `ascii` does; keep all other characters."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def _cut(shown: str, longest: int) -> str:
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."
