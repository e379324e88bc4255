"""Files that appear whole or not at all, their hashes, and JSON that every reader accepts."""

import codecs
import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shlex
import tomllib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cikd_cli.errors import EXIT_FAILED, CikdError
from cikd_cli.system import lock

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
# What JSON itself lets through: C1 controls, direction marks, line separators, lone surrogates.
_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_LOOKED = 4096  # bytes of a text that tell its encoding
MOST_TOML = 2**15  # bytes; tomllib takes quadratic time over a key of many dots, here at most seconds
# The marks that begin a text; that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class EncodingError(ValueError):
    """A file whose text is not UTF-8; `hint` says how to make it so."""

    def __init__(self, found: str, path: Path, *, likely: str) -> None:
        super().__init__(found)
        self.hint = (
            f"choose UTF-8 where your editor saves it, or  iconv -f {likely} -t UTF-8 {shlex.quote(str(path))} > new"
        )


WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar", ".tar", ".pkl")


def write_atomically(path: Path, content: bytes, *, keep: Path | None = None) -> None:
    """Write `content` to a temporary name beside `path`, sync it, and rename it over `path`.

    keep: where the file that is replaced goes, once the new one is on disk.

    Raises:
        CikdError: the disk is full or the folder cannot be written; `path`, or else `keep`, is as `path` was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        handle = _open_locked(temporary)
        try:
            _write_all(handle, content)
            os.fsync(handle)
            if keep is not None and path.exists():
                path.replace(keep)
            temporary.replace(path)
        finally:
            os.close(handle)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise disk_error(error, path) from error


def append(path: Path, content: bytes) -> None:
    """Add `content` to the end of a file and sync it.

    Raises:
        CikdError: the disk is full or the file cannot be written; some of `content` may be there.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _write_all(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise disk_error(error, path) from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; that of a living one is locked, and stays."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR)
            try:
                lock(handle)
                path.unlink()
            finally:
                os.close(handle)


def _open_locked(temporary: Path) -> int:
    """Open a temporary file, locked to say that its writer lives; again, if it went between open and lock."""
    while True:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            lock(handle, wait=True)
        if temporary.exists():
            return handle
        os.close(handle)


def _write_all(handle: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_error(error: OSError, path: Path) -> CikdError:
    """The sentence for an operating-system error met while writing `path`."""
    if error.errno in _FULL:
        hint = "free some space; a run that was stopped goes on with --resume RUN"
        return CikdError(f"No space left for {path}", hint=hint, exit_code=EXIT_FAILED)
    reason = error.strerror or str(error)
    if error.errno in _CLOSED:
        return CikdError(
            f"Cannot write {path}: {reason.lower()}", hint="--runs-dir DIR chooses another folder for runs"
        )
    return CikdError(f"Cannot write {path}: {reason.lower()}", exit_code=EXIT_FAILED)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path, *, most: int) -> str:
    """The text of a UTF-8 file of at most `most` bytes, without the mark that some editors begin it with.

    Raises:
        OSError: it cannot be read.
        EncodingError: it is not UTF-8.
        ValueError: it is larger.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    encoding = _other_encoding(content)
    if encoding is not None:
        raise EncodingError(f"it is {encoding} and not UTF-8", path, likely=encoding)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        found = f"it is not UTF-8: line {line} has the byte 0x{byte:02x}"
        raise EncodingError(found, path, likely="WINDOWS-1252") from None


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file; CikdError if it is missing or broken."""
    try:
        return tomllib.loads(read_text(path, most=MOST_TOML))
    except EncodingError as error:
        raise CikdError(f"{what} {path} cannot be read: {error}", hint=error.hint) from None
    except (ValueError, RecursionError) as error:
        raise CikdError(
            f"{what} {path} is not TOML: {error}", hint='text needs quotes, e.g. data = "cifar100"'
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CikdError(f"{what} {path} cannot be read: {reason}", hint="check the path") from None


def _other_encoding(content: bytes) -> str | None:
    """UTF-16 or UTF-32, by its mark, or by the zeros that text of Latin letters then has in every other byte."""
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return name
    first, second = content[:_LOOKED:2], content[1:_LOOKED:2]
    for name, zeros, letters in (("UTF-16LE", second, first), ("UTF-16BE", first, second)):
        if zeros.count(0) > len(zeros) // 2 and 0 not in letters:
            return name
    return None


def is_file(path: Path) -> bool:
    """Whether a file is there; a path too long for a name is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def has_weights_suffix(name: str) -> bool:
    """Whether a name ends as those of weights files do, in any case."""
    return name.lower().endswith(WEIGHTS_SUFFIXES)


def file_word(name: str) -> str:
    """A name from elsewhere as part of a file's name: letters, digits and `+-._` in 60 bytes, others become `_`."""
    word = re.sub(r"[^\w.+-]", "_", unicodedata.normalize("NFC", name))
    return word.encode()[:60].decode(errors="ignore")


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON text: paths become strings, tensors and arrays lists, and numbers JSON cannot hold (NaN, inf) null.

    What a terminal might obey, or an encoder refuse, is written as an escape.
    """
    text = json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # a tensor or an array, without importing either
        return _plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} does not fit into JSON")
