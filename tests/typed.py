"""A command line as it is typed, run in this process."""

from typer.testing import CliRunner

from cikd_cli.cli.app import app


def cikd(*words, **variables):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "TERM": "dumb", **variables})
