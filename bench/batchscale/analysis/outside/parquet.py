"""Read a Parquet file, such as W&B's history of a run, as rows of text; needs the extra `parquet`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        with parquet.ParquetFile(path, memory_map=False) as file:
            found = file.metadata
            size = sum(found.row_group(at).total_byte_size for at in range(found.num_row_groups))
            if found.num_rows > most_rows or found.num_columns > MOST_COLUMNS or size > MOST_BYTES:
                shape = f"{found.num_rows} rows, {found.num_columns} columns, {size} bytes"
                raise InputError(f"{path}: {shape}, expected at most {most_rows}, {MOST_COLUMNS}, {MOST_BYTES}")
            names = [one.name for one in file.schema_arrow if _is_plain(str(one.type))]
            yield names
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=names):
                columns = [batch.column(at).to_pylist() for at in range(len(names))]
                for values in zip(*columns, strict=True):
                    yield ["" if value is None else _text(value) for value in values]
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: not a Parquet file ({reason(error)})") from None


def _is_plain(kind: str) -> bool:
    return kind.startswith(("int", "uint", "float", "double", "halffloat", "string", "large_string"))


def _text(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value).strip()[:200]
