"""Trouble as sentences: what a user can act on is told with an exit code, anything else stays a traceback."""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from cikd_cli.console import show_error
from cikd_cli.errors import EXIT_FAILED, OUT_OF_MEMORY_HINT, CikdError, nothing_made
from cikd_cli.files import disk_error
from cikd_cli.processes import environment

_UsageError: Any = typer.BadParameter.__base__  # wherever this version of Typer declares it


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what a user can act on into a sentence and an exit code; anything else is our bug and stays a traceback."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        sentence = _as_sentence(error)
        if sentence is None:
            raise
        if environment.speaks() and not sentence.shown:  # one of several processes tells it
            show_error(sentence)
        raise typer.Exit(sentence.exit_code) from None


@contextmanager
def loading() -> Iterator[None]:
    """Around imports: a Ctrl-C ends the program, also where a library that is being loaded swallows it."""
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _as_sentence(error: BaseException) -> CikdError | None:
    if isinstance(error, CikdError):
        return error
    if _is_interrupt(error):
        return nothing_made()
    if isinstance(error, _UsageError) and type(error).__name__ != "NoArgsIsHelpError":  # whose message is the help
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


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether it is a Ctrl-C, or what a library that was being loaded has made of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error is not None
