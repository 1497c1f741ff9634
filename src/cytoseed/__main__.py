"""The program `cytoseed`, and `python -m cytoseed`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C is an exit code while it is still being imported, too."""
    try:
        from cytoseed.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
