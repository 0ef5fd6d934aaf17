"""The exceptions whose messages are written for the user, and the line on standard error that a user sees."""

import sys

from batchscale.printable import visible


class UserError(Exception):
    """Each argument is one line of the message. File names may occur in it, so it is printed through `visible`."""

    def __str__(self) -> str:
        return "\n".join(map(visible, self.args))


class InputError(UserError, ValueError):
    """The user's input cannot be used; the message is one line: the field, the value found, and what was expected."""


class DeviceError(UserError, RuntimeError):
    """The device keeps failing; the message is one line: how it failed, and how to continue."""


def warn(line: str) -> None:
    """Print one visible line on standard error, after the name of the program."""
    sys.stderr.write(f"batchscale: {visible(line)}\n")
