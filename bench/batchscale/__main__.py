"""`python -m batchscale` is `batchscale`."""

import shlex
import sys


def main() -> None:
    """Entry point; exits 2 with one line when this Python lacks a package."""
    try:
        from batchscale.cli import command_line  # noqa: PLC0415 - a package may be missing here, or where a verb imports more

        command_line.main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("batchscale",):
            raise
        python = shlex.quote(sys.executable)
        lacks = f"lacks the package {package}" if package else f"lacks a package ({error})"
        sys.stderr.write(f"batchscale: {python} {lacks}; to install what is needed: {python} -m pip install -e .\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
