"""The valid files that `fuzz.py` damages: the runs of a small curriculum, an image of every kind, plain weights."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import torch
from PIL import Image

from cikd_cli.models.weights import load_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from tiny import RECIPE, draw_photos

FORMATS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpg": {},
    "bmp": {},
    "webp": {"lossless": True},
    "tif": {},
    "gif": {},
    "ppm": {},
    "jp2": {},
    "avif": {},
}


def in_a_process(folder: Path, words: list[str]) -> None:
    """`cikd WORDS` in a process of its own, whose memory is not the readers'."""
    subprocess.run([sys.executable, "-m", "cikd_cli", *words], cwd=folder, check=True)


def make_seeds(folder: Path, cikd: Callable[[Path, list[str]], None] = in_a_process) -> Path:
    """A finished curriculum on a few images, and an image of every kind, in `folder`; cikd: runs a command there."""
    rng = np.random.default_rng(0)
    draw_photos(folder / "photos")
    (folder / "recipe.toml").write_text(RECIPE)
    for words in ("finetune-teacher --data photos", "ali --teacher runs/teacher-001", "lm --from runs/ali-001"):
        cikd(folder, [*words.split(), "--recipe", "recipe.toml", "--gpus", "cpu", "--quiet"])
    (folder / "images").mkdir()
    picture = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    for kind, settings in FORMATS.items():
        picture.save(folder / "images" / f"seed.{kind}", **settings)
    pillow_heif.from_pillow(picture).save(folder / "images" / "seed.heic")
    marked = Image.Exif()
    marked[0x0112], marked[0x010F] = 6, "maker"
    for kind in ("jpg", "png", "webp", "tif"):
        picture.convert("RGBA" if kind in ("png", "webp") else "RGB").save(
            folder / "images" / f"exif.{kind}", exif=marked
        )
    (folder / "images" / "seed.pgm").write_bytes(b"P5 24 20 4095\n" + bytes(range(240)) * 4)
    picture.convert("I").save(folder / "images" / "grey.tif")
    picture.convert("P").save(folder / "images" / "palette.png", optimize=True)
    model, _ = load_model(folder / "runs/lm-001/model.safetensors")
    torch.save({"model": model.state_dict(), "epoch": 3}, folder / "weights.pth")
    return folder
