"""What a file is by its first bytes: PyTorch weights, or which other thing that people keep beside them."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from cikd_cli.errors import CikdError

OTHER_SUFFIXES = (".h5", ".keras", ".npz", ".npy", ".onnx", ".msgpack", ".tflite", ".pb", ".index", ".gguf")

_AGAIN = "download it again"
_CONVERT = "load it with its own program and save the state dict: torch.save(model.state_dict(), 'weights.pth')"


@dataclass(frozen=True)
class _Other:
    """What a file is, and what to do about it."""

    what: str
    hint: str = _CONVERT


_TORCHSCRIPT = _Other(
    "TorchScript, a program",
    "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.pth') takes its weights out",
)
_NUMPY = _Other(
    "an archive of NumPy arrays, as JAX programs write",
    "timm.create_model(NAME, checkpoint_path=FILE) reads some; then torch.save(model.state_dict(), 'weights.pth')",
)
_UNPACK = "unpack it, and take the weights file in it"
_MAGIC = {
    b"version https://git-lfs": _Other("a pointer of Git LFS, and the weights are not there", "git lfs pull"),
    b"\x89HDF": _Other("HDF5, as Keras and TensorFlow write"),
    b"\x93NUMPY": _Other("a NumPy array"),
    b"GGUF": _Other("GGUF, of llama.cpp"),
    b"\x1f\x8b": _Other("a gzip archive", _UNPACK),
    b"\xfd7zXZ": _Other("an xz archive", _UNPACK),
    b"7z\xbc\xaf": _Other("a 7z archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": _Other("a zstd archive", _UNPACK),
}
_SUFFIXES = {
    ".onnx": _Other("ONNX, a graph"),
    ".msgpack": _Other("Flax's weights"),
    ".index": _Other("a TensorFlow checkpoint"),
    ".pb": _Other("a TensorFlow graph"),
}
_ENTRIES = (  # the end of a name in a zip archive, and what has such a file
    (".npy", _NUMPY),
    ("constants.pkl", _TORCHSCRIPT),
    ("serialized_exported_program.json", _Other("a program of torch.export")),
    ("archive_format", _Other("a program of torch.export")),
    (".h5", _Other("Keras's weights")),
)


def is_safetensors(path: Path) -> bool:
    """By its name, or by its first bytes: the length of a JSON header, and that header."""
    head = _head(path)
    return path.suffix.lower() == ".safetensors" or (head[8:9] == b"{" and head[5:8] == b"\0\0\0")


def refuse_other_formats(path: Path) -> None:
    """Raise CikdError for a file that is known to be something else than PyTorch weights."""
    other = _other(path)
    if other is not None:
        raise CikdError(
            f"{path} is {other.what}; it holds no PyTorch weights.", hint=other.hint.replace("FILE", repr(str(path)))
        )


def _other(path: Path) -> _Other | None:
    head = _head(path)
    if not head:
        return _Other("empty", _AGAIN)
    for magic, other in _MAGIC.items():
        if head.startswith(magic):
            return other
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return _Other("a web page, not the file it is about", _AGAIN)
    if head.lstrip().startswith(b"{"):
        return _Other("JSON, a description or an index", "give the weights file that lies beside it")
    if head[257:262] == b"ustar":
        return _Other("a tar archive", _UNPACK)
    if head[4:8] == b"TFL3":
        return _Other("TensorFlow Lite, a graph")
    if head[:1] == b"\x08" and any(maker in head[:64] for maker in (b"onnx", b"pytorch", b"ONNX")):
        return _SUFFIXES[".onnx"]
    return _in_archive(path) or _SUFFIXES.get(path.suffix.lower())


def _in_archive(path: Path) -> _Other | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None
    found = (other for end, other in _ENTRIES if any(name.endswith(end) for name in names))
    nothing = None if any(name.endswith("data.pkl") for name in names) else _Other("a zip archive", _UNPACK)
    return next(found, nothing)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise CikdError(
            f"{path} cannot be read ({error.strerror}).", hint="check the path and its permissions"
        ) from error
