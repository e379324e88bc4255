"""Trouble as sentences: what a user can act on is told with an exit code, anything else stays a traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from cikd_cli import elastic
from cikd_cli.console import show_error
from cikd_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, OUT_OF_MEMORY_HINT, CikdError
from cikd_cli.files import disk_error

_UsageError: Any = typer.BadParameter.__base__  # wherever this version of Typer declares it


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what a user can act on into a sentence and an exit code; anything else is our bug and stays a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        show_error(CikdError("Interrupted"))
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Exception as error:
        sentence = _as_sentence(error)
        if sentence is None:
            raise
        if elastic.speaks() and not sentence.shown:  # of several processes one speaks
            show_error(sentence)
        raise typer.Exit(sentence.exit_code) from None


def _as_sentence(error: Exception) -> CikdError | None:
    if isinstance(error, CikdError):
        return error
    if isinstance(error, _UsageError) and type(error).__name__ != "NoArgsIsHelpError":  # that one is the help itself
        where = error.ctx.command_path if error.ctx else "cikd"
        return CikdError(error.format_message(), hint=f"{where} --help")
    text = str(error)
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
        or "can't allocate memory" in text
    ):
        what = f"Out of memory: {text.splitlines()[0] if text else 'no room'}"
        return CikdError(what, hint=OUT_OF_MEMORY_HINT, exit_code=EXIT_FAILED)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return disk_error(error, Path(str(error.filename or "the run")))
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return CikdError(f"{error.filename} is too long for the name of a file")
    if "No space left on device" in text:  # from safetensors, which raises its own type
        return disk_error(OSError(errno.ENOSPC, text), Path("the run"))
    return None
