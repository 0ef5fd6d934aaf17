"""The exceptions a user is meant to read, and text in which nothing can act on a terminal."""

LONGEST_REASON = 160
"""Characters of another program's own words in a message."""


def visible(line: str) -> str:
    """The line with every control character, line end and stray byte of a file's name spelt as `ascii` would."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


class UserError(Exception):
    """Its arguments are its lines; names of files stand in them, so what is told of them is `visible`."""

    def __str__(self) -> str:
        return "\n".join(map(visible, self.args))


class InputError(UserError, ValueError):
    """Something the user gave is not usable; the message is one line that says what, where and what would be right."""


class DeviceError(UserError, RuntimeError):
    """The device keeps failing; the message is one line that says how, and how to go on."""
