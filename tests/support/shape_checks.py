"""Check array shapes in tests. Imported before the package, because a hook sees only what is imported later."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook
from repository import ROOT


def modules_with_shapes() -> Iterator[str]:
    """Yield every module whose annotations carry array shapes; users do not pay for the checks, only tests do."""
    for folder, package in ((ROOT / "bench" / "batchscale", "batchscale"), (ROOT / "models", "batchscale.models")):
        for path in folder.rglob("*.py"):
            if re.search(r"^(from|import) jaxtyping", path.read_text(), re.MULTILINE):
                yield ".".join([package, *path.relative_to(folder).with_suffix("").parts])


def checked(function: Any) -> Any:
    """Check the arguments and the result of a function; a whole number may stand for a float, as for type checkers."""
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))


install_import_hook(list(modules_with_shapes()), f"{__name__}.checked")
