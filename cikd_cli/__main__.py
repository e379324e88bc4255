"""`python -m cikd_cli`, and the entry point of the `cikd` command."""

from cikd_cli.cli import app


def main() -> None:
    """Run the command line."""
    app(prog_name="cikd")


if __name__ == "__main__":
    main()
