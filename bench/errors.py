"""The exceptions a user is meant to read."""


class InputError(ValueError):
    """Something the user gave is not usable; the message is one line that says what, where and what would be right."""


class DeviceError(RuntimeError):
    """The device keeps failing; the message is one line that says how, and how to go on."""
