"""The knobs of `cikd bench`."""

from typing import Literal, get_args

from pydantic import PositiveInt, field_validator

from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.knob import ANALYSIS, DATA, MODELS, OPTIMISATION, Precision, knob

Stage = Literal["ali", "lm"]
STEPS: tuple[Stage, ...] = get_args(Stage)
BENCHES = (*STEPS, "relation-kl", "views")


class BenchConfig(StageConfig):
    """`cikd bench`; where nothing is given the recipe's value is taken, and without one that of `cikd ali` and `lm`."""

    # fmt: off
    what: str = knob(",".join(BENCHES), "What to time, of these.", panel=ANALYSIS, first=True, metavar="WORD,...")
    rounds: int = knob(7, "Rounds in which the reference and the tool take turns.", panel=ANALYSIS, ge=1)
    sweep: bool = knob(
        False, "Time the steps over batch, image size and LOB, and draw how they grow.", panel=ANALYSIS, first=True)
    sweep_batches: tuple[PositiveInt, ...] | None = knob(None, "Batch sizes of the sweep.", unset="by the device")
    sweep_sizes: tuple[PositiveInt, ...] | None = knob(None, "Image sizes of the sweep.", unset="by the device")
    sweep_lobs: tuple[PositiveInt, ...] | None = knob(
        None, "Learning objective blocks of the sweep.", unset="by the device")
    image_size: int | None = knob(
        None, "Side of the square input, in pixels.", panel=DATA, first=True, unset="the recipe's", ge=1)
    source_size: int = knob(32, "Side of the images that views are made from, in pixels.", panel=DATA, ge=1)
    train_images: int | None = knob(
        None, "Training images, for the hours of a run.", panel=DATA, unset="those of the recipe's data set, if known",
        ge=1)
    num_classes: int = knob(100, "Classes of teacher and student.", panel=MODELS, ge=2)
    teacher_arch: str | None = knob(None, "timm name of the teacher.", panel=MODELS, first=True, unset="the recipe's")
    student: Literal["vit_tiny", "vit_small", "vit_pico", "custom"] | None = knob(
        None, "Student size.", panel=MODELS, first=True, unset="the recipe's")
    lob: int | None = knob(
        None, "Learning objective block, from 1.", panel=MODELS, first=True, unset="the recipe's", ge=1)
    batch_size: int | None = knob(
        None, "Images a step.", panel=OPTIMISATION, first=True, unset="the recipe's, on a CPU a few", ge=1)
    precision: Precision | None = knob(
        None, "Arithmetic of both sides.", panel=OPTIMISATION, first=True, unset="the recipe's")
    compile: bool = knob(False, "Compile the blocks of the tool's networks.", panel=OPTIMISATION)
    # fmt: on

    @field_validator("what")
    @classmethod
    def _check_what(cls, what: str) -> str:
        if not what or set(what.split(",")) - set(BENCHES):
            raise ValueError(f"some of {','.join(BENCHES)}, with commas between")
        return what
