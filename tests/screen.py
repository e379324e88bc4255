"""A terminal as a person has it: a pseudo-terminal that runs a command, and what its screen shows as time goes by."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
import unicodedata

from crash import ended, fork

TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b.|[^\x1b]")
ROWS = 50


class Screen:
    """What a terminal shows of what is written to it: the sequences that rich uses, and lines that are too long."""

    def __init__(self, columns):
        self.columns, self.rows, self.row, self.column = columns, [[]], 0, 0
        self._rest = ""

    def feed(self, text):
        text = self._rest + text
        start = text.rfind("\x1b")
        cut = start if start >= 0 and not re.match(r"\x1b\[[?\d;]*[A-Za-z]", text[start:]) else len(text)
        text, self._rest = text[:cut], text[cut:]
        for token in TOKEN.finditer(text):
            number, kind = token.group(1), token.group(2)
            if kind == "A":
                self.row = max(0, self.row - int(number or 1))
            elif kind == "K":
                self.rows[self.row] = [] if number == "2" else self.rows[self.row][: self.column]
            elif token.group() == "\r":
                self.column = 0
            elif token.group() == "\n":
                self._go_down()
            elif kind is None and token.group().isprintable():
                self._put(token.group())

    def _go_down(self):
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])

    def _put(self, letter):
        wide = 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if self.column + wide > self.columns:
            self.column = 0
            self._go_down()
        row = self.rows[self.row]
        row += " " * (self.column - len(row))
        row[self.column : self.column + wide] = [letter, *[""] * (wide - 1)]
        self.column += wide

    def lines(self):
        return ["".join(row).rstrip() for row in self.rows]


class Terminal:
    """A child, forked from this process, that does `act` on a terminal of its own, which is its controlling one."""

    def __init__(self, act, columns, **environment):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        os.set_inheritable(theirs, True)

        def on_terminal():
            os.setsid()
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
            os.close(self._ours)
            for number in range(3):
                os.dup2(theirs, number)
            os.environ.pop("COLUMNS", None)
            os.environ |= {"TERM": "xterm-256color", **environment}
            return act()

        self.pid = fork(on_terminal, f"/proc/self/fd/{theirs}")
        os.close(theirs)
        self.screen, self.drawn, self.raw = Screen(columns), [], ""

    def watch(self, until=lambda _: False, within=120):
        """Read what is shown until the child ends, or `until(self)`; after each write `drawn` has the lines anew."""
        deadline = time.monotonic() + within
        while not until(self):
            assert time.monotonic() < deadline, "\n".join(self.screen.lines())
            if select.select([self._ours], [], [], 0.05)[0]:
                try:
                    text = os.read(self._ours, 65536).decode(errors="replace")
                except OSError:  # nobody has the other end any more
                    return self
                self.raw += text
                self.screen.feed(text)
                self.drawn.append(self.screen.lines())
        return self

    def type(self, text):
        os.write(self._ours, text.encode())

    def close(self):
        """As a window or a connection is closed."""
        if self._ours >= 0:
            os.close(self._ours)
        self._ours = -1

    def end(self):
        """The exit code of the child, and the last lines shown."""
        self.watch()
        code = ended(self.pid)
        self.close()
        return code, self.screen.lines()


LONG = ("--epochs", "4000", "--set", "keep_every=0", "--save-every", "2h")


def lm(teacher, recipe, *more):
    return ("lm", "--teacher", teacher, "--recipe", recipe, *LONG, *more)


def shows_the_end(terminal):
    return bool(terminal.drawn) and any("eta" in line for line in terminal.drawn[-1])
