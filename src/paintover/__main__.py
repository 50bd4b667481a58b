"""The `paintover` command, and `python -m paintover`."""

import sys


def run() -> None:
    """Starts the command line; Ctrl-C while it is being loaded ends it as quietly as later on."""
    try:
        from paintover.cli import main
    except KeyboardInterrupt:
        sys.exit(130)
    main()


if __name__ == "__main__":
    run()
