"""What a dataset is made of: files, places that may hold them, and a function from their content to three splits."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from batchscale.errors import InputError
from batchscale.measure.data.examples import Content
from batchscale.measure.data.files.packings import DataFile
from batchscale.measure.data.files.sources import Source
from batchscale.printable import bare
from batchscale.untrusted_input import misfit

OPTIONS = "workload.dataset_options"


@dataclass(frozen=True)
class Recipe:
    """Everything a dataset is made of; a module of `recipes/` holds one, called `RECIPE`.

    Attributes:
        make: makes the splits of the checked files, given in the order of `files`. Its keyword-only parameters are the
            options of the dataset, checked against their annotations.
        files: the files that hold the examples; none for data that is made here.
        sources: places that may hold the files, in the order in which they are asked.
    """

    make: Callable[..., Content]
    files: tuple[DataFile, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of the only file, or of the list of hashes that `sha256sum` prints for several."""
        if len(self.files) == 1:
            return self.files[0].sha256
        listed = "".join(f"{file.sha256}  {file.name}\n" for file in self.files)
        return hashlib.sha256(listed.encode()).hexdigest()


def check_options(make: Callable[..., object], options: Mapping[str, Any], name: str) -> None:
    """Check options against the keyword-only parameters of the function that makes a dataset.

    Raises:
        InputError: on an option that the dataset `name` does not have, or whose value does not fit.
    """
    parameters = inspect.signature(make).parameters.values()
    known = [one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    hints = get_type_hints(make, include_extras=True)
    for option, value in options.items():
        if option not in known:
            expected = f"one of {', '.join(known)}" if known else "none"
            raise InputError(f"{OPTIONS}.{bare(option)}: not an option of {name}, expected {expected}")
        if message := misfit(value, hints[option], f"{OPTIONS}.{option}"):
            raise InputError(message)
