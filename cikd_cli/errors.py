"""The one error of the program: a sentence, and the command that mends it."""

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

OUT_OF_MEMORY_HINT = "a smaller --batch-size or --image-size, or --accumulate 2, which splits each batch"


class CikdError(Exception):
    """Something the user can act on.

    message: what happened, with the value, as a sentence; its final period is added when it lacks one.
    hint: the command or flag that fixes it.
    exit_code: 2 for bad input (default), 1 for a fault while running, 130 for an interrupted and saved run.
    shown: whether the user has seen it already, from another process of the same command.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, exit_code: int = EXIT_BAD_INPUT, shown: bool = False
    ) -> None:
        self.message = message if message.endswith((".", "?", "!")) else f"{message}."
        super().__init__(self.message)
        self.hint = hint
        self.exit_code = exit_code
        self.shown = shown


def nothing_made() -> CikdError:
    """What is told of a Ctrl-C before there was anything to keep."""
    return CikdError("Stopped before anything was made", exit_code=EXIT_INTERRUPTED)
