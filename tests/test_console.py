"""What people see: no markup, no escapes, and a log of it all."""

import io
import sys

import pytest

from cikd_cli import progress
from cikd_cli.console import Reporter, reporter, show_error
from cikd_cli.errors import CikdError
from cikd_cli.text import aligned, clean, duration


def test_terminal_escapes_and_direction_marks_in_a_class_name_do_not_reach_the_terminal():
    assert clean("cat\x1b[31m\x9b\u202edog\udce9") == "cat?[31m??dog?"


def test_a_name_cannot_begin_a_line_of_its_own():
    assert clean("cat\r\nerror: forged\u2028\tx") == "cat error: forged x"


@pytest.mark.parametrize("mode", ["rich", "plain"])
def test_brackets_in_a_path_are_text_and_not_markup(mode):
    stream = io.StringIO()
    Reporter(mode, stream).line("runs/[bold]x[/bold] :smile: [/]")
    assert stream.getvalue() == "runs/[bold]x[/bold] :smile: [/]\n"


def test_a_long_path_is_never_broken_over_lines():
    stream = io.StringIO()
    path = "runs/" + "x" * 300
    Reporter("rich", stream).line(path)
    assert stream.getvalue() == path + "\n"


def test_labels_of_the_header_block_form_a_column():
    stream = io.StringIO()
    Reporter("plain", stream).fields([("data", "digits"), ("teacher", "runs/teacher-001")])
    assert stream.getvalue() == "data     digits\nteacher  runs/teacher-001\n"


def test_numbers_in_a_table_stand_right_and_wide_letters_count_twice():
    assert aligned(["set", "top-1"], [["花", "9.5"], ["digits", "98.1"]]) == [
        "set     top-1",
        "花        9.5",
        "digits   98.1",
    ]


def test_silent_prints_nothing_but_warnings_and_the_log_has_both(tmp_path, capsys):
    out = reporter(quiet=True, as_json=False)
    out.attach_log(tmp_path / "log.txt")
    out.line("hidden")
    out.warn("shown")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "warning: shown\n")
    assert (tmp_path / "log.txt").read_text() == "hidden\nwarning: shown\n"


def test_with_json_people_read_standard_error(capsys):
    reporter(quiet=False, as_json=True).line("for people")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "for people\n")


def test_without_a_terminal_the_reporter_is_plain(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert reporter(quiet=False, as_json=False).mode == "plain"


def test_plain_progress_is_one_line_each_interval_and_the_last_state(monkeypatch):
    now = iter(range(0, 100, 3))  # three seconds between looks at the clock
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    stream = io.StringIO()
    with Reporter("plain", stream).progress(1000) as bar:
        for done in (250, 500, 750, 1000):
            bar.update(done, "loss 2.3")
    assert stream.getvalue().splitlines() == [" 50%  500/1,000 img  loss 2.3", "100%  1,000/1,000 img  loss 2.3"]


def test_a_quick_job_prints_no_progress_line_when_plain():
    stream = io.StringIO()
    with Reporter("plain", stream).progress(10) as bar:
        bar.update(10, "")
    assert stream.getvalue() == ""


def test_letters_a_terminal_cannot_show_do_not_stop_the_program():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Reporter("plain", stream).line("✓ done")
    assert raw.getvalue() == b"? done\n"


def test_an_error_is_a_sentence_and_a_hint_on_standard_error(capsys):
    show_error(CikdError("runs/x is gone", hint="cikd runs"))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: runs/x is gone.\nhint: cikd runs\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.24, "4.2 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (260, "4 min 20 s"), (11190, "3 h 06 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_a_stop_that_was_asked_for_is_told_without_the_word_error(capsys):
    show_error(CikdError("runs/x stopped", hint="go on with  y", exit_code=130))
    assert capsys.readouterr().err == "runs/x stopped.\ngo on with  y\n"
