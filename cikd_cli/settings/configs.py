"""The knobs that training stages share, each declared once (see `knob`): images, optimisation, teacher and student."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from cikd_cli.settings.knob import DATA, MODELS, OPTIMISATION, Precision, Role, Triple, knob


class StageConfig(BaseModel):
    """What a stage does, resolved and frozen; `config.toml` in a run is exactly this."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True)

    @property
    def needs_teacher(self) -> bool:
        """Whether nothing can be trained without one, where one can be named."""
        return True


class DataConfig(StageConfig):
    """Which images, and how they are split and normalised; all stages of a curriculum share it."""

    # fmt: off
    data: str | None = knob(
        None, "Named data set, or a folder of class folders.", panel=DATA, first=True, metavar="NAME|DIR",
        role=Role.IMAGES | Role.COMMON | Role.TOLD)
    data_root: str = knob(
        "data", "Folder in which named data sets lie.", panel=DATA, metavar="DIR",
        role=Role.IMAGES | Role.PLACE | Role.COMMON | Role.TOLD)
    download: bool = knob(
        False, "Download a named data set that is not on disk.", panel=DATA, role=Role.PLACE | Role.COMMON)
    fraction: float = knob(
        1.0, "Stratified share of the training images to use.", panel=DATA, role=Role.IMAGES | Role.COMMON, gt=0, le=1)
    val: float = knob(
        0.0, "Share of the training images held out for validation.", panel=DATA, role=Role.IMAGES | Role.COMMON, ge=0,
        lt=1)
    split_seed: int = knob(0, "Seed of the 80/20 split, the validation split and the subset.", role=Role.IMAGES, ge=0)
    image_size: int = knob(224, "Side of the square input, in pixels.", panel=DATA, role=Role.INPUT | Role.COMMON, ge=1)
    mean: Triple | None = knob(
        None, "Normalisation mean per channel.", unset="the teacher's pretraining statistics", role=Role.INPUT)
    std: Triple | None = knob(
        None, "Normalisation standard deviation per channel.", unset="as for mean", role=Role.INPUT)
    decode_size: int = knob(
        0, "Reduce decoded images to this short side, in pixels; 0: keep them whole.", role=Role.INPUT, ge=0)
    skip_unreadable: bool = knob(
        False, "Count unreadable images and go on without them.", panel=DATA,
        role=Role.IMAGES | Role.PLACE | Role.COMMON)
    cache_mb: int = knob(4096, "Most memory for decoded images kept between epochs, in MiB.", role=Role.PLACE, ge=0)
    # fmt: on

    @field_validator("std")
    @classmethod
    def _check_std(cls, std: Triple | None) -> Triple | None:
        if std is not None and min(std) <= 0:
            raise ValueError("must be greater than 0")
        return std


class TrainingConfig(DataConfig):
    """What the three training stages have in common; defaults are the paper's for its small sets."""

    # fmt: off
    epochs: int = knob(
        300, "Passes over the training images.", panel=OPTIMISATION, first=True,
        role=Role.COMMON | Role.RESUMABLE | Role.RECIPE,
        common="Passes over the training images, in every stage. One stage: --set ali.epochs=100", ge=1)
    batch_size: int = knob(
        256, "Images a step, over all processes.", panel=OPTIMISATION, first=True, role=Role.COMMON | Role.RECIPE,
        common="Images a step, in every stage. One stage: --set lm.batch_size=64", ge=1)
    lr: float = knob(1e-3, "Peak learning rate.", panel=OPTIMISATION, role=Role.RECIPE, gt=0)
    min_lr: float = knob(0.0, "Learning rate at the end of the cosine.", ge=0)
    warmup: float = knob(5.0, "Epochs of linear warm-up.", panel=OPTIMISATION, role=Role.RECIPE, ge=0)
    weight_decay: float = knob(0.05, "AdamW weight decay on tensors of two or more dimensions.", ge=0)
    betas: tuple[float, float] = knob((0.9, 0.999), "AdamW betas.")
    layer_decay: float = knob(1.0, "Factor on the learning rate from each block to the one below.", gt=0, le=1)
    accumulate: int = knob(1, "Micro-batches a step, to fit a batch into less memory.", panel=OPTIMISATION, ge=1)
    precision: Precision = knob(
        "auto", "Arithmetic of the networks; losses are always float32.", panel=OPTIMISATION, role=Role.COMMON)
    compile: bool | None = knob(
        None, "Compile the blocks of teacher and student.", panel=OPTIMISATION, unset="for long runs on a GPU")
    ema: float = knob(
        0.0, "Decay of an exponential moving average of the weights; 0: off.", panel=OPTIMISATION, ge=0, lt=1)
    seed: int = knob(
        0, "Seed of initialisation, order, augmentation and drop path.", panel=OPTIMISATION,
        role=Role.COMMON | Role.TOLD, ge=0, lt=2**31)
    eval_every: int = knob(0, "Epochs between evaluations; 0: about twenty over the run.", ge=0)
    keep_every: int = knob(0, "Epochs between checkpoints that are kept; 0: only the last two.", ge=0)
    crop_scale: tuple[float, float] = knob((0.2, 1.0), "Area of the random crop as a share of the image.")
    interpolation: Literal["bicubic", "bilinear"] = knob("bicubic", "Resampling of the training crop.")
    flip: float = knob(0.5, "Probability of a horizontal flip.", ge=0, le=1)
    jitter: Triple = knob((0.0, 0.0, 0.0), "Colour jitter: brightness, contrast, saturation.")
    augment: Literal["none", "trivial", "affine"] = knob("none", "TrivialAugmentWide, or a light affine jitter.")
    # fmt: on

    @field_validator("betas")
    @classmethod
    def _check_betas(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("must each be at least 0 and less than 1")
        return betas

    @field_validator("crop_scale")
    @classmethod
    def _check_crop_scale(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError("must rise from more than 0 to at most 1")
        return scale


class StudentConfig(TrainingConfig):
    """A training stage that has a teacher and a student."""

    # fmt: off
    teacher: str | None = knob(
        None, "Teacher run.", panel=MODELS, first=True, unset="the newest finished one for the data set",
        role=Role.TOLD, takes="teacher")
    student: Literal["vit_tiny", "vit_small", "vit_pico", "custom"] = knob(
        "vit_tiny", "Student size; 'custom' takes student_width, _depth and _heads.", panel=MODELS, first=True,
        role=Role.STUDENT | Role.COMMON)
    student_width: int | None = knob(None, "Width of a custom student.", role=Role.STUDENT, ge=4)
    student_depth: int | None = knob(None, "Blocks of a custom student.", role=Role.STUDENT, ge=1)
    student_heads: int | None = knob(None, "Heads of a custom student's middle blocks.", role=Role.STUDENT, ge=1)
    from_run: str | None = knob(
        None, "Run whose student to start from.", panel=MODELS, flag="--from", metavar="RUN", role=Role.TOLD,
        takes="student")
    drop_path: float = knob(0.1, "Stochastic depth of the student's middle blocks.", ge=0, lt=1)
    # fmt: on
