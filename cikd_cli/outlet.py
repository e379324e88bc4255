"""Standard output and standard error as they are: their reader may go away before the work is done."""

import errno
import os
from contextlib import suppress
from typing import TextIO


class Outlet:
    """A stream whose reader may go away: what cannot be written any more is dropped, and so is all that comes after.

    lost: why nothing is written any more; empty as long as it is. full: it is a file whose disk is full.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.lost = "" if stream is not None else "closed"
        self.full = False
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """As a file does, and at once; letters that the stream does not know become `?`."""
        if self._stream is None or self.lost:
            return len(text)
        try:
            self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
            self._stream.flush()
        except BlockingIOError:  # a terminal that another program has set so: it may take more later
            pass
        except (OSError, ValueError) as error:
            self.lost = getattr(error, "strerror", None) or str(error)
            self.full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            with suppress(OSError, ValueError):
                _forget(self._stream.fileno())
        return len(text)

    def flush(self) -> None:
        """Nothing: `write` does not wait."""

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return is_terminal(self._stream)

    def fileno(self) -> int:
        """The file descriptor; OSError where there is none."""
        if self._stream is None:
            raise OSError("closed")
        return self._stream.fileno()


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads it; none where the program was started without such a stream."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def hold_standard_files() -> None:
    """Give a file to the standard streams that the program was started without, lest a run's file take the number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _forget(number: int) -> None:
    """Whatever else writes there, Python at its end included, writes to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
