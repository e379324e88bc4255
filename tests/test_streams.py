"""The line of progress on a terminal of any kind and width, and what is said where nobody reads."""

import io
import sys

import pytest

from cikd_cli import progress
from cikd_cli.console import Reporter, reporter, show_error, show_output
from cikd_cli.errors import CikdError
from cikd_cli.progress import progress_line
from cikd_cli.text import text_width

TRAINING = ("epoch  12/300", ("eta 2 h 52 min", "loss 2.311", "2,410 img/s", "ce 1.204 tckd 0.061", "data wait 3%"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_text_with_brackets_is_shown_as_it_is_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    out = Reporter("rich", stream)
    with out.progress(10) as bar:
        bar.update(5, "[bold]epoch[/bold]")
        out.line("a line above the bar")
    assert "a line above the bar" in stream.getvalue()
    assert "[bold]epoch[/bold]" in stream.getvalue()


# ---- the progress line of a terminal ----


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (9, "epoch  12"),
        (30, "epoch  12/300  ─────────    8%"),
        (40, "epoch  12/300    8%  eta 2 h 52 min"),
        (50, "epoch  12/300  ━────────────    8%  eta 2 h 52 min"),
        (60, "epoch  12/300  ───────────    8%  eta 2 h 52 min  loss 2.311"),
        (78, "epoch  12/300  ━───────────────    8%  eta 2 h 52 min  loss 2.311  2,410 img/s"),
        (118, "epoch  12/300  ━────────────────────    8%  eta 2 h 52 min  loss 2.311  2,410 img/s  "
         "ce 1.204 tckd 0.061  data wait 3%"),
    ],
)  # fmt: skip
def test_a_narrow_terminal_keeps_what_matters_most(columns, line):
    head, parts = TRAINING
    assert progress_line(columns, 0.08, head, parts) == line


def test_no_width_makes_a_progress_line_longer_than_it():
    for head in (TRAINING[0], "", "三色堇三色堇"):
        for parts in (TRAINING[1], (), ("", "loss 2.3")):
            for columns in range(1, 150):
                for share in (0, 0.5, 1):
                    assert text_width(progress_line(columns, share, head, parts)) <= columns


def test_a_progress_line_never_loses_a_part_on_a_wider_terminal():
    shown = [progress_line(columns, 0.08, *TRAINING) for columns in range(19, 150)]
    kept = [[part in line for part in TRAINING[1]] for line in shown]
    assert kept == sorted(kept)
    assert kept[0] == [False] * 5
    assert kept[-1] == [True] * 5


def test_without_a_guess_of_the_end_its_place_is_left_out():
    assert progress_line(40, 0, "epoch 1/3", ("", "loss 2.3")).split() == [
        "epoch", "1/3", "─────────────", "0%", "loss", "2.3"
    ]  # fmt: skip


def test_a_terminal_that_knows_no_strokes_gets_a_bar_of_its_letters(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    stream.isatty = lambda: True
    with Reporter("rich", stream).progress(10) as bar:
        bar.update(5, "✓ epoch", "eta 3 s")
    assert b"? epoch  ############------------   50%  eta 3 s" in raw.getvalue()


def test_plain_progress_lines_keep_every_part(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0)
    stream = io.StringIO()
    with Reporter("plain", stream).progress(100, unit="steps") as bar:
        bar.update(8, TRAINING[0], *TRAINING[1])
    assert stream.getvalue() == "  8%  8/100 steps  " + "  ".join((TRAINING[0], *TRAINING[1])) + "\n"


@pytest.mark.parametrize(("term", "mode"), [("xterm", "rich"), ("dumb", "plain"), ("unknown", "plain")])
def test_a_terminal_that_cannot_draw_a_line_again_gets_plain_lines(monkeypatch, term, mode):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert reporter(quiet=False, as_json=False).mode == mode


# ---- streams that go away ----


class Gone(Terminal):
    """Fails as a pipe without a reader, or a closed terminal, does, and counts the tries."""

    def __init__(self, error):
        super().__init__()
        self.error, self.tries = error, 0

    def write(self, _):
        self.tries += 1
        raise self.error


LOSSES = [
    BrokenPipeError(32, "Broken pipe"),
    OSError(5, "Input/output error"),
    ValueError("I/O operation on closed file"),
]


@pytest.mark.parametrize("mode", ["plain", "rich"])
@pytest.mark.parametrize("error", LOSSES, ids=lambda error: type(error).__name__)
def test_what_nobody_reads_is_tried_once_and_the_log_has_it_all(monkeypatch, tmp_path, mode, error):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0)
    stream = Gone(error)
    out = Reporter(mode, stream)
    out.attach_log(tmp_path / "log.txt")
    out.line("one")
    with out.progress(10) as bar:
        bar.update(5, "epoch 1/2", "eta 3 s")
    out.fields([("two", "2")])
    why = getattr(error, "strerror", None) or str(error)
    assert (tmp_path / "log.txt").read_text().splitlines() == [
        "one",
        f"nobody reads the output any more ({why}); the work goes on",
        " 50%  5/10 img  epoch 1/2  eta 3 s",
        "two  2",
    ]
    assert stream.tries == 1


@pytest.mark.parametrize("error", LOSSES, ids=lambda error: type(error).__name__)
def test_warnings_and_errors_survive_that_nobody_reads_them(monkeypatch, error):
    monkeypatch.setattr(sys, "stderr", Gone(error))
    Reporter("plain", io.StringIO()).warn("unseen")
    show_error(CikdError("unseen", hint="unseen"))
    assert sys.stderr.tries == 3


def test_a_program_without_standard_streams_is_silent(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    out = reporter(quiet=False, as_json=False)
    out.line("unseen")
    out.warn("unseen")
    show_error(CikdError("unseen"))


def test_a_result_that_cannot_be_delivered_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone(BrokenPipeError(32, "Broken pipe")))
    with pytest.raises(CikdError, match="could not be written to standard output: Broken pipe") as caught:
        show_output("{}")
    assert caught.value.exit_code == 1


def test_a_terminal_that_can_take_no_more_for_a_moment_is_tried_again():
    stream = Gone(BlockingIOError(11, "Resource temporarily unavailable"))
    out = Reporter("plain", stream)
    out.line("one")
    out.line("two")
    assert stream.tries == 2
