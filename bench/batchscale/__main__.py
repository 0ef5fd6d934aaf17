"""`python -m batchscale` is `batchscale`."""

import shlex
import sys


def main() -> None:
    """Run the command line and exit; exit with 2 and one line when this Python lacks a package."""
    try:
        from batchscale.cli import command_line  # noqa: PLC0415 - the missing package may be one that this imports

        command_line.main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "batchscale":
            raise
        python = shlex.quote(sys.executable)
        missing = f"lacks the package {package}" if package else f"lacks a package ({error})"
        sys.stderr.write(f"batchscale: {python} {missing}; to install what is needed: {python} -m pip install -e .\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
