"""Read a Parquet file, such as W&B's history of a run, as rows of text; needs the extra `parquet`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from batchscale.errors import InputError
from batchscale.printable import reason

MAGIC = b"PAR1"
MOST_COLUMNS = 2_000
MOST_BYTES = 1 << 30
"""Of the columns that are read, by what the file says of them before anything is read."""
ROWS_AT_ONCE = 4_096


def is_parquet(path: Path) -> bool:
    """Return True if a file begins as Parquet does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def rows(path: Path, most_rows: int) -> Iterator[list[str]]:
    """Yield the names of the columns with numbers or texts, then their rows; what is null is empty.

    Raises:
        InputError: when pyarrow is not installed, or the file is too large or not valid.
    """
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"{path}: Parquet needs pyarrow, expected it installed: pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            found = file.metadata
            size = sum(found.row_group(at).total_byte_size for at in range(found.num_row_groups))
            if found.num_rows > most_rows or found.num_columns > MOST_COLUMNS or size > MOST_BYTES:
                shape = f"{found.num_rows} rows, {found.num_columns} columns, {size} bytes"
                raise InputError(f"{path}: {shape}, expected at most {most_rows}, {MOST_COLUMNS}, {MOST_BYTES}")
            names = [one.name for one in file.schema_arrow if _is_plain(str(one.type))]
            texts = [one.name for one in file.schema_arrow if _is_text(str(one.type))]
        yield names
        # A text that is repeated in a million rows is kept once; else a file of kilobytes could fill the memory.
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=names):
                yield from map(list, zip(*(_texts(batch.column(at)) for at in range(len(names))), strict=True))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: not a Parquet file ({reason(error)})") from None


def _is_plain(kind: str) -> bool:
    return _is_text(kind) or _values_of(kind).startswith(("int", "uint", "float", "double", "halffloat", "decimal"))


def _is_text(kind: str) -> bool:
    return _values_of(kind).startswith(("string", "large_string"))


def _values_of(kind: str) -> str:
    """Return the type of the values of a column of categories, such as pandas writes; else the type itself."""
    return kind.removeprefix("dictionary<values=")


class _Column(Protocol):
    """What is used of a column of pyarrow.

    Attributes:
        dictionary: The different values of a column that holds each of them once, if it is one.
        indices: The place of every field in these.
    """

    dictionary: _Column
    indices: _Column

    def to_pylist(self) -> list[Any]:
        """Return its values."""
        ...


def _texts(column: _Column) -> list[str]:
    """Return the fields of a column; what is null is empty."""
    values = column.dictionary if hasattr(column, "dictionary") else column
    texts = ["" if value is None else _text(value) for value in values.to_pylist()]
    return texts if values is column else ["" if at is None else texts[at] for at in column.indices.to_pylist()]


def _text(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value).strip()[:200]
