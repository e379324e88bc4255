"""What makes wrong files: each returns, or is, a function that puts them into the working directory."""

import io
import json
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cikd_cli.files import file_sha256


def text(name: str, content: str) -> Callable[[], object]:
    return lambda: Path(name).write_text(content)


def folder(name: str, counts: dict[str, int], also: tuple[str, ...] = ()) -> Callable[[], object]:
    """Class folders with so many images each, and empty files."""

    def make() -> None:
        for place, (label, count) in enumerate(counts.items()):
            Path(name, label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (16, 16), (number, place, 0)).save(Path(name, label, f"{number}.png"))
        for file in also:
            Path(name, file).touch()

    return make


def image(content: bytes, name: str = "bad.png") -> Callable[[], object]:
    """A good folder with one file that is no good."""

    def make() -> None:
        folder("set", {"a": 5, "b": 5})()
        Path("set", "a", name).write_bytes(content)

    return make


def pipe() -> None:
    folder("set", {"a": 5, "b": 5})()
    os.mkfifo("set/a/pipe.png")


def bitmap(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 58, 0, 54, 40, width, height, 1, 24, 0, 4, 0, 0, 0, 0) + bytes(4)


def tiff(mode: str, values: bytes) -> bytes:
    """Two pixels of more than 8 bits."""
    file = io.BytesIO()
    Image.frombytes(mode, (2, 1), values).save(file, "TIFF")
    return file.getvalue()


def run(name: str = "bad", of: str = "lm", *, file: str = "run.json", **changes: object) -> Callable[[], object]:
    """A copy of a run whose run.json, or the description in whose weights, says something else; ...: does not say."""

    def make() -> None:
        shutil.copytree(f"runs/{of}", f"runs/{name}")
        if file == "run.json":
            path = Path("runs", name, file)
            record = json.loads(path.read_text())
            parts = {key: record[key] | value for key, value in changes.items() if key == "data" and value is not ...}
            record |= changes | parts
            path.write_text(json.dumps({key: value for key, value in record.items() if value is not ...}))
        else:
            describe(Path("runs", name, file), changes)

    return make


def describe(path: Path, changes: dict[str, object]) -> None:
    """Change the description in a weights file, and the hash that the run records of it."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    described = json.loads(header["__metadata__"]["cikd"])
    arguments = {key: value for key, value in changes.items() if key in described["arguments"] and key not in described}
    described |= {key: value for key, value in changes.items() if key not in arguments}
    described["arguments"] |= arguments
    save_file(load_file(path), path, metadata={"cikd": json.dumps(described)})
    record = json.loads((path.parent / "run.json").read_text())
    record["weights"]["sha256"] = file_sha256(path)
    (path.parent / "run.json").write_text(json.dumps(record))


def spoilt(name: str, content: bytes | None) -> Callable[[], object]:
    """A copy of the lm run with one file replaced, or gone."""

    def make() -> None:
        run()()
        path = Path("runs/bad", name)
        path.unlink() if content is None else path.write_bytes(content)

    return make


def config(line: str) -> Callable[[], object]:
    """A copy of the lm run with a line more in its config.toml, hash and all."""

    def make() -> None:
        shutil.copytree("runs/lm", "runs/bad")
        path = Path("runs/bad/config.toml")
        key = line.split(" ")[0]
        path.write_text(re.sub(f"(?m)^{key} = .*\n", "", path.read_text()) + line + "\n")
        record = json.loads(Path("runs/bad/run.json").read_text()) | {"config_sha256": file_sha256(path)}
        Path("runs/bad/run.json").write_text(json.dumps(record))

    return make


class Trap:
    """Unpickling it makes the folder `sprung`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


def pth(content: object) -> Callable[[], object]:
    return lambda: torch.save(content, "weights.pth")


def bomb() -> None:
    """A .pth that is small only because it is compressed."""
    with zipfile.ZipFile("weights.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", bytes(10_000_000))


def vit(name: str) -> Callable[[], object]:
    """A network of timm's under its own names."""
    return lambda: torch.save(timm.create_model(name, num_classes=0, img_size=16).state_dict(), "weights.pth")


def archive(name: str) -> Callable[[], object]:
    """A zip archive with this file in it."""

    def make() -> None:
        with zipfile.ZipFile("weights.pth", "w") as file:
            file.writestr(name, "x")

    return make


def taken() -> None:
    Path("file").write_text("")
