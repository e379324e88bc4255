"""What differs between operating systems has one door each, and every module can be imported behind all of them."""

import fcntl
import os
import subprocess
import sys
import types

import pytest
from test_imports import PACKAGE, imported, modules

from cikd_cli import system


def as_on_windows(monkeypatch):
    """In the place of fcntl what Windows has: `msvcrt`, here made of fcntl, and as rude about a lock that is held."""

    def locking(handle, kind, count):
        assert os.lseek(handle, 0, os.SEEK_CUR) > os.fstat(handle).st_size, "nobody could read what is locked"
        assert count == 1
        try:
            fcntl.flock(handle, kind)
        except BlockingIOError as error:
            raise PermissionError(error.errno, error.strerror) from error

    msvcrt = types.ModuleType("msvcrt")
    msvcrt.locking, msvcrt.LK_LOCK, msvcrt.LK_NBLCK = locking, fcntl.LOCK_EX, fcntl.LOCK_EX | fcntl.LOCK_NB
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(system, "sys", types.SimpleNamespace(platform="win32"))


@pytest.fixture(params=["here", "as on Windows"])
def opened(request, monkeypatch, tmp_path):
    """A function that opens one file, again and again."""
    if request.param != "here":
        as_on_windows(monkeypatch)
    handles = []

    def open_again():
        handles.append(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT))
        return handles[-1]

    yield open_again
    for handle in handles:
        os.close(handle)


def test_a_locked_file_is_refused_to_others_until_its_handle_is_closed(opened, tmp_path):
    first = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    system.lock(first, wait=True)
    second = opened()
    with pytest.raises(BlockingIOError):
        system.lock(second)
    os.close(first)
    system.lock(second)
    os.write(second, b"the text begins where the file does")
    assert (tmp_path / "file").read_bytes() == b"the text begins where the file does"


def test_those_who_only_ask_do_not_refuse_each_other(tmp_path):
    path = tmp_path / "file"
    with path.open("w") as first, path.open() as second:
        system.lock(first.fileno(), shared=True)
        system.lock(second.fileno(), shared=True)


def test_cores_are_those_that_a_process_may_use():
    if hasattr(os, "sched_setaffinity"):
        script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from cikd_cli.system import cores"
        done = subprocess.run([sys.executable, "-c", f"{script}; print(cores())"], capture_output=True, text=True)
        assert done.stdout == "1\n"
    assert 1 <= system.cores() <= os.cpu_count()


def test_memory_is_counted_in_bytes():
    held = bytearray(b"x") * 2**27
    assert len(held) < system.memory() < 2**40
    assert len(held) < system.peak_memory() < 2**40


def test_every_module_can_be_imported_where_the_system_has_nothing_of_posix():
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules()]
    foreign = {name for path in modules() for name in imported(path)} - {"fcntl", "resource", "msvcrt"}
    script = f"""
import contextlib, importlib, os, signal, sys
for name in {sorted(name for name in foreign if not name.startswith("cikd_cli"))}:
    with contextlib.suppress(ImportError):  # what is optional
        importlib.import_module(name)
sys.modules.update(dict.fromkeys(("fcntl", "resource", "termios", "pwd", "grp")))
for module, names in ((signal, ("SIGHUP", "SIGUSR1", "SIGQUIT", "SIGKILL", "pthread_sigmask", "sigwaitinfo")),
                      (os, ("fork", "register_at_fork", "sched_getaffinity", "sysconf"))):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for name in {[name.removesuffix(".__init__") for name in names]}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
