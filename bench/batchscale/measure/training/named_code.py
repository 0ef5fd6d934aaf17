"""Classes that an experiment names: those that come with the package, and the user's own, by path or by module."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from batchscale.errors import InputError
from batchscale.measure.device import jax_settings
from batchscale.printable import bare, printable, reason
from batchscale.untrusted_input import misfit

T = TypeVar("T")


def names_in(package: ModuleType) -> list[str]:
    """Return the names of the public files of a package: a file's existence is its registration."""
    return sorted(entry.name for entry in pkgutil.iter_modules(package.__path__) if not entry.name.startswith("_"))


def is_users(name: str) -> bool:
    """Return True if a name is a class of the user, such as "mine.py:Model", and not one of the package."""
    return ":" in name


def class_named(field: str, name: str, package: ModuleType, attribute: str, folder: Path = Path()) -> type[Any]:
    """Return the class that an experiment names.

    Args:
        field: The field of the experiment, for messages.
        name: A file of `package`, "path/to/file.py:Class", or "package.module:Class".
        package: The package with the shipped classes.
        attribute: Name of the class in each file of `package`.
        folder: The folder that a path is relative to.

    Raises:
        InputError: When there is no such name, or the user's code cannot be loaded.
    """
    if not is_users(name):
        if name not in (known := names_in(package)):
            raise InputError(f"{field}: {printable(name)}, expected one of {', '.join(known)}")
        return getattr(importlib.import_module(f"{package.__name__}.{name}"), attribute)
    where, _, wanted = name.rpartition(":")
    with _found_last(folder / where if where.endswith(".py") else folder / "_"):
        module = _module_of_file(field, folder / where) if where.endswith(".py") else _module_named(field, where)
    jax_settings.hold()  # the user's code may have changed them
    found = getattr(module, wanted, None)
    if not isinstance(found, type):
        held = [key for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")]
        raise InputError(f"{field}: {printable(where)} has no class {printable(wanted)}, expected one of {_few(held)}")
    return found


def code_hash(name: str, folder: Path) -> str | None:
    """Return the SHA-256 of the file with the user's class; None for what comes with the package."""
    if not is_users(name):
        return None
    where = name.rpartition(":")[0]
    path = str(folder / where) if where.endswith(".py") else getattr(sys.modules.get(where), "__file__", None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else None


def constructor_options(of: type) -> set[str]:
    """Return the names of the parameters of a class's constructor."""
    return set(inspect.signature(of.__init__).parameters) - {"self"}


def check_types(field: str, of: type, options: Mapping[str, Any]) -> None:
    """Check options against the annotations of a class's constructor.

    Raises:
        InputError: On a value that the annotation does not allow.
    """
    hints = get_type_hints(of.__init__)
    for option, value in options.items():
        if option in hints and (message := misfit(value, hints[option], f"{field}.{bare(option)}")):
            raise InputError(message)


def _module_of_file(field: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{field}: {printable(str(path))} is not a file, expected a path from the experiment's folder")
    # The name holds the whole path, so the user's file cannot hide another module.
    loader = importlib.machinery.SourceFileLoader(f"batchscale user {path.resolve()}", str(path))
    # Dataclasses and type hints look their module up by its name.
    module = sys.modules[loader.name] = ModuleType(loader.name)
    module.__file__ = str(path)
    run_users(f"{field}: its code cannot be loaded", lambda: loader.exec_module(module))
    return module


def _module_named(field: str, name: str) -> ModuleType:
    return run_users(f"{field}: its code cannot be loaded", lambda: importlib.import_module(name))


@contextmanager
def _found_last(path: Path) -> Iterator[None]:
    """Let the user's code import what is next to it; anything installed comes first."""
    sys.path.append(str(path.parent.resolve()))
    try:
        yield
    finally:
        sys.path.pop()


def run_users(what: str, call: Callable[[], T]) -> T:
    """Call code of the user.

    Args:
        what: How a message begins: the field, and what failed.
        call: The code.

    Raises:
        InputError: Whatever the code raises, as one line.
    """
    try:
        return call()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {type(error).__name__}: {reason(error)}") from None


def _few(names: list[str]) -> str:
    return ", ".join(names[:10]) or "at least one class in it"
