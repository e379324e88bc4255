"""The tiny curriculum of the tests and of benchmarks/chaos.py: a recipe, and pictures to learn from."""

import numpy as np
from PIL import Image

RECIPE = """
[common]
image_size = 16
batch_size = 8
epochs = 3
lr = 2e-3
warmup = 1
layer_decay = 1.0
precision = "fp32"
flip = 0.5
crop_scale = [0.5, 1.0]

[finetune-teacher]
teacher = "scratch"
teacher_width = 16
teacher_depth = 3
teacher_heads = 2
teacher_patch = 4

[ali]
student = "custom"
student_width = 8
student_depth = 3
student_heads = 1
drop_path = 0.3
lob = 2

[lm]
student = "custom"
student_width = 8
student_depth = 3
student_heads = 1
drop_path = 0.3
"""


def draw_photos(folder):
    """Fill train/ and test/: 3 classes, 10 + 4 images each, a noisy stripe in another direction a class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("bars", "dots", "rows")):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 90, (16, 16, 3))
                if label == 0:
                    pixels[:, ::4] += 140
                elif label == 1:
                    pixels[::4, ::4] += 160
                else:
                    pixels[::4] += 140
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{index}.png")


def folder(path, *, colour=0):
    """A folder of the classes that the runs know: pictures of the same names and sizes in bytes, whatever colour."""
    for number, name in enumerate(("bars", "dots", "rows")):
        (path / name).mkdir(parents=True)
        for index in range(4):
            pixels = np.full((16, 16, 3), 40 * number + 10 * index + colour, np.uint8)
            Image.fromarray(pixels).save(path / name / f"{index}.bmp")
    return path
