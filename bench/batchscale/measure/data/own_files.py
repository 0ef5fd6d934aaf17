"""The user's own data: a `.npz` file, a folder of `.npy` files, or a text.

Arrays are `train_inputs`, `train_labels`, `validation_inputs`, `validation_labels`, `test_inputs` and `test_labels`; or
`inputs` and `labels`, of which a tenth is held out for validation and a tenth for testing, in the fixed order of
`held_out_order`, which holds each class in proportion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from batchscale.errors import InputError
from batchscale.measure.data import array_files, compression
from batchscale.measure.data.arrays import content_of
from batchscale.measure.data.examples import Content, Dataset
from batchscale.measure.data.text import WINDOW, Window, windows_of_text
from batchscale.printable import LONGEST_REASON, bare, printable
from batchscale.untrusted_input import refuse_endless

MOST_TEXT_BYTES = 4 << 30
SOURCE = "a file of the user"

Classes = Annotated[int, Meta(ge=1, le=1 << 31)]


def reader(path: Path) -> Callable[..., Content]:
    """Return the function that reads what is at `path`; its keyword-only parameters are the options.

    Raises:
        InputError: when nothing is there.
    """
    if path.is_dir():
        return read_folder
    if not path.exists():
        raise InputError(f"workload.dataset: {printable(str(path), LONGEST_REASON)} does not exist")
    return read_npz if path.suffix == ".npz" else read_text


def load(name: str, path: Path, options: Mapping[str, Any], announce: Callable[[str], object]) -> Dataset:
    """Return the user's data; `name` is how the user named it.

    Raises:
        InputError: when it cannot be used.
    """
    read = reader(path)
    if read is not read_text:
        content = read(path, **options)
        return Dataset.of(content, name=name, source=SOURCE, sha256=content.digest())
    text = text_of(path)
    content = windows_of_text(text, source=shown(path), **options)
    content = content.with_facts(compression.bits_per_byte(text, announce))
    return Dataset.of(content, name=name, source=SOURCE, sha256=hashlib.sha256(text).hexdigest())


def read_npz(path: Path, *, classes: Classes | None = None) -> Content:
    """Read arrays from a `.npz` file; without `classes` they are those that occur."""
    return content_of(array_files.npz(path, shown(path)), shown(path), classes)


def read_folder(path: Path, *, classes: Classes | None = None) -> Content:
    """Map arrays from the `.npy` files of a folder; without `classes` they are those that occur."""
    return content_of(array_files.folder(path, shown(path)), shown(path), classes)


def read_text(path: Path, *, window: Window = WINDOW) -> Content:
    """Read a text as bytes."""
    return windows_of_text(text_of(path), window, shown(path))


def text_of(path: Path) -> bytes:
    """Return the bytes of a text.

    Raises:
        InputError: when it cannot be read, is too large, or is no text.
    """
    try:
        refuse_endless(path, MOST_TEXT_BYTES)
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    if b"\0" in text:
        raise InputError(f"{shown(path)}: holds a zero byte, expected a text, a .npz file or a folder of .npy files")
    return text


def shown(path: Path) -> str:
    """Return the path as messages name it."""
    return bare(str(path), LONGEST_REASON)
