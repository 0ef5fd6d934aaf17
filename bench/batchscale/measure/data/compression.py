"""How far gzip, bzip2 and xz compress a text: lines that a language model is compared with.

A model that needs fewer bits per byte than `bzip2 -9` has learnt more of the text than bzip2 finds in it. The whole
text is compressed, as these programs would do with the file.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import logging
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from batchscale.errors import InputError
from batchscale.measure.data.files.sources import cache_folder
from batchscale.records import row_files

MOST_BYTES = 128 << 20
"""A longer text gets no lines: xz alone would take minutes."""
LONG_BYTES = 1 << 20
"""A text of this size or more is announced before it is compressed."""
MOST_DICTIONARY_BYTES = 64 << 20
LEAST_DICTIONARY_BYTES = 4096
Size = Annotated[int, Meta(ge=1)]
log = logging.getLogger("batchscale.data")


class Sizes(msgspec.Struct, frozen=True):
    """Bytes of the compressed text."""

    gzip: Size
    bzip2: Size
    xz: Size


# Computed with `compressed` (Python 3.11, zlib 1.2.13), so that no user waits for it. By the hash of the text.
KNOWN = {
    "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387": Sizes(1_986_994, 1_497_675, 1_576_768),
    "615f359a07c07b4c3bf420e2f41399b72e37eb333313144c6b5036759241f9f8": Sizes(12_878_025, 9_778_822, 9_225_284),
}


def bits_per_byte(text: bytes, announce: Callable[[str], object] = log.debug) -> dict[str, float]:
    """Return the bits that `gzip -9`, `bzip2 -9` and `xz -9` need for a byte of the text; none for a very long text.

    They are computed once for each text and then kept in the cache.
    """
    if not 0 < len(text) <= MOST_BYTES:
        return {}
    digest = hashlib.sha256(text).hexdigest()
    sizes = KNOWN.get(digest) or _cached(digest)
    if sizes is None:
        if len(text) >= LONG_BYTES:
            announce("compressing the text with gzip, bzip2 and xz, once")
        sizes = compressed(text)
        _keep(digest, sizes)
    return {f"{name}_bits_per_byte": 8 * size / len(text) for name, size in msgspec.structs.asdict(sizes).items()}


def compressed(text: bytes) -> Sizes:
    """Compress the text in three ways.

    The dictionary of xz is no longer than the text, which changes nothing but the memory that it takes (0.7 GB at -9).
    """
    dictionary = 1 << max(0, len(text) - 1).bit_length()
    xz = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9,
        "dict_size": min(max(dictionary, LEAST_DICTIONARY_BYTES), MOST_DICTIONARY_BYTES),
    }
    return Sizes(
        gzip=len(gzip.compress(text, 9, mtime=0)),
        bzip2=len(bz2.compress(text, 9)),
        xz=len(lzma.compress(text, filters=[xz])),
    )


def _cached(digest: str) -> Sizes | None:
    try:
        return msgspec.json.decode(_path(digest).read_bytes(), type=Sizes)
    except (InputError, OSError, msgspec.DecodeError):
        return None


def _keep(digest: str, sizes: Sizes) -> None:
    """Store the sizes; a cache that cannot be written costs the next run the computation."""
    try:
        row_files.write_whole(_path(digest), msgspec.json.encode(sizes))
    except InputError as error:
        log.warning("not kept for the next run: %s", error)


def _path(digest: str) -> Path:
    return cache_folder("compressed") / f"{digest}.json"
