"""`python -m cikd_cli`, and the entry point of the `cikd` command."""

import sys

from cikd_cli.outlet import hold_standard_files


def main() -> None:
    """Run the command line."""
    hold_standard_files()
    try:
        from cikd_cli.cli.app import app

        app(prog_name="cikd")
    except KeyboardInterrupt:  # while the program was being loaded; later `cli/exits` tells it
        from cikd_cli.console import show_error
        from cikd_cli.errors import EXIT_INTERRUPTED, nothing_made

        show_error(nothing_made())
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
