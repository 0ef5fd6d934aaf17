"""The one exception a user is meant to read."""


class InputError(ValueError):
    """Something the user gave is not usable; the message is one line that says what, where and what would be right."""
