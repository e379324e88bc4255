"""The knobs of eval, mad and cka."""

from typing import Literal

from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.knob import ANALYSIS, DATA, HARDWARE, MODELS, Precision, knob


class EvalConfig(StageConfig):
    """`cikd eval RUN`."""

    # fmt: off
    data: str | None = knob(
        None, "Data set or folder with the same classes.", panel=DATA, first=True, metavar="NAME|DIR",
        unset="the run's own")
    data_root: str | None = knob(
        None, "Folder in which named data sets lie.", panel=DATA, first=True, metavar="DIR", unset="the run's own")
    split: Literal["test", "val", "train"] = knob("test", "Which images to score.", panel=DATA, first=True)
    batch_size: int = knob(64, "Images a pass.", panel=HARDWARE, first=True, ge=1)
    precision: Precision = knob("fp32", "Arithmetic of the networks.", panel=HARDWARE, first=True)
    latency: bool = knob(
        True, "Measure the time of one image on the CPU and, if there is one, the GPU.", panel=ANALYSIS, first=True)
    # fmt: on


class MadConfig(StageConfig):
    """`cikd mad RUN...`; 128 images: docs/method.md."""

    # fmt: off
    data: str | None = knob(
        None, "Data set or folder.", panel=DATA, first=True, metavar="NAME|DIR", unset="the first run's own")
    data_root: str | None = knob(
        None, "Folder in which named data sets lie.", panel=DATA, first=True, metavar="DIR", unset="the run's own")
    image_size: int | None = knob(
        None, "Side of the input for a timm name, in pixels.", panel=DATA, first=True, unset="its own", ge=1)
    images: int = knob(128, "Test images to average over.", panel=ANALYSIS, first=True, ge=1)
    batch_size: int = knob(32, "Images a pass.", panel=HARDWARE, first=True, ge=1)
    # fmt: on


class CkaConfig(StageConfig):
    """`cikd cka RUN...`; at least 1,024 images in batches of 128: docs/method.md."""

    # fmt: off
    teacher: str | None = knob(None, "Model to compare with.", panel=MODELS, first=True, unset="the run's own teacher")
    data: str | None = knob(
        None, "Data set or folder.", panel=DATA, first=True, metavar="NAME|DIR", unset="the first run's own")
    data_root: str | None = knob(
        None, "Folder in which named data sets lie.", panel=DATA, first=True, metavar="DIR", unset="the run's own")
    images: int = knob(1024, "Test images to use.", panel=ANALYSIS, first=True, ge=4)
    batch_size: int = knob(128, "Images of one unbiased estimate; at least 4.", panel=ANALYSIS, first=True, ge=4)
    # fmt: on
