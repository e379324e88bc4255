"""Every knob of every stage, each declared once: type, default, bounds, help, and where `--help` shows it.

Flags, `--help`, recipe keys, `--set` keys, validation and a run's `config.toml` all derive from these fields. A field
without a panel has no flag of its own; recipes, `--config` and `--set` reach it.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

DATA = "Data"
MODELS = "Teacher and student"
OPTIMISATION = "Optimisation"
ANALYSIS = "Analysis"
HARDWARE = "Hardware"
RUN = "Run"
SLURM = "SLURM"

Triple = tuple[float, float, float]
Precision = Literal["auto", "bf16", "fp16", "fp32"]


def knob(
    default: Any,
    help: str,
    *,
    panel: str | None = None,
    flag: str | None = None,
    first: bool = False,
    unset: str | None = None,
    **bounds: Any,
) -> Any:
    """One knob: `flag` replaces the name derived from the field, `bounds` are pydantic's (ge, gt, le, lt).

    first: `--help` shows it, not `--help-all` alone. unset: what happens by itself, where the default is None.
    """
    noted: dict[str, Any] = {"panel": panel, "flag": flag, "first": first, "unset": unset}
    return Field(default, description=help, json_schema_extra=noted, **bounds)


class StageConfig(BaseModel):
    """What a stage does, resolved and frozen; `config.toml` in a run is exactly this."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True)


class DataConfig(StageConfig):
    """Which images, and how they are split and normalised; all stages of a curriculum share it."""

    data: str | None = knob(None, "Named data set, or a folder of class folders.", panel=DATA, first=True)
    data_root: str = knob("data", "Folder in which named data sets lie.", panel=DATA)
    download: bool = knob(False, "Download a named data set that is not on disk.", panel=DATA)
    fraction: float = knob(1.0, "Stratified share of the training images to use.", panel=DATA, gt=0, le=1)
    val: float = knob(0.0, "Share of the training images held out for validation.", panel=DATA, ge=0, lt=1)
    image_size: int = knob(224, "Side of the square input, in pixels.", panel=DATA, ge=1)
    skip_unreadable: bool = knob(False, "Count unreadable images and go on without them.", panel=DATA)
    mean: Triple | None = knob(None, "Normalisation mean per channel.", unset="the teacher's pretraining statistics")
    std: Triple | None = knob(None, "Normalisation standard deviation per channel.", unset="as for mean")
    split_seed: int = knob(0, "Seed of the 80/20 split, the validation split and the subset.", ge=0)
    decode_size: int = knob(0, "Reduce decoded images to this short side, in pixels; 0: keep them whole.", ge=0)
    cache_mb: int = knob(4096, "Most memory for decoded images kept between epochs, in MiB.", ge=0)

    @field_validator("std")
    @classmethod
    def _check_std(cls, std: Triple | None) -> Triple | None:
        if std is not None and min(std) <= 0:
            raise ValueError("must be greater than 0")
        return std


class TrainingConfig(DataConfig):
    """What the three training stages have in common; defaults are the paper's for its small sets."""

    epochs: int = knob(300, "Passes over the training images.", panel=OPTIMISATION, first=True, ge=1)
    batch_size: int = knob(256, "Images a step, over all processes.", panel=OPTIMISATION, first=True, ge=1)
    lr: float = knob(1e-3, "Peak learning rate.", panel=OPTIMISATION, gt=0)
    min_lr: float = knob(0.0, "Learning rate at the end of the cosine.", ge=0)
    warmup: float = knob(5.0, "Epochs of linear warm-up.", panel=OPTIMISATION, ge=0)
    weight_decay: float = knob(0.05, "AdamW weight decay on tensors of two or more dimensions.", ge=0)
    betas: tuple[float, float] = knob((0.9, 0.999), "AdamW betas.")
    layer_decay: float = knob(1.0, "Factor on the learning rate from each block to the one below.", gt=0, le=1)
    accumulate: int = knob(1, "Micro-batches a step, to fit a batch into less memory.", panel=OPTIMISATION, ge=1)
    precision: Precision = knob("auto", "Arithmetic of the networks; losses are always float32.", panel=OPTIMISATION)
    compile: bool | None = knob(
        None, "Compile the blocks of teacher and student.", panel=OPTIMISATION, unset="for long runs on a GPU"
    )
    ema: float = knob(
        0.0, "Decay of an exponential moving average of the weights; 0: off.", panel=OPTIMISATION, ge=0, lt=1
    )
    seed: int = knob(
        0, "Seed of initialisation, order, augmentation and drop path.", panel=OPTIMISATION, ge=0, lt=2**31
    )
    eval_every: int = knob(0, "Epochs between evaluations; 0: about twenty over the run.", ge=0)
    keep_every: int = knob(0, "Epochs between checkpoints that are kept; 0: only the last two.", ge=0)
    crop_scale: tuple[float, float] = knob((0.2, 1.0), "Area of the random crop as a share of the image.")
    interpolation: Literal["bicubic", "bilinear"] = knob("bicubic", "Resampling of the training crop.")
    flip: float = knob(0.5, "Probability of a horizontal flip.", ge=0, le=1)
    jitter: Triple = knob((0.0, 0.0, 0.0), "Colour jitter: brightness, contrast, saturation.")
    augment: Literal["none", "trivial", "affine"] = knob("none", "TrivialAugmentWide, or a light affine jitter.")

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

    teacher: str | None = knob(
        None, "Teacher run.", panel=MODELS, first=True, unset="the newest finished one for the data set"
    )
    student: Literal["vit_tiny", "vit_small", "vit_pico", "custom"] = knob(
        "vit_tiny", "Student size; 'custom' takes student_width, _depth and _heads.", panel=MODELS, first=True
    )
    student_width: int | None = knob(None, "Width of a custom student.", ge=4)
    student_depth: int | None = knob(None, "Blocks of a custom student.", ge=1)
    student_heads: int | None = knob(None, "Heads of a custom student's middle blocks.", ge=1)
    drop_path: float = knob(0.1, "Stochastic depth of the student's middle blocks.", ge=0, lt=1)


class FinetuneTeacherConfig(TrainingConfig):
    """`cikd finetune-teacher`; defaults: docs/method.md, teacher fine-tuning."""

    teacher: str = knob(
        "vit_base_patch16_224.dino",
        "timm name, weights file or a folder with one, hf-hub:OWNER/NAME, a run, or 'scratch' (teacher_width, ...).",
        panel=MODELS,
        first=True,
    )
    teacher_arch: str | None = knob(None, "timm architecture of a weights file that does not name one.", panel=MODELS)
    teacher_width: int = knob(192, "Width of a teacher from scratch.", ge=4)
    teacher_depth: int = knob(12, "Blocks of a teacher from scratch.", ge=1)
    teacher_heads: int = knob(3, "Heads of a teacher from scratch.", ge=1)
    teacher_patch: int = knob(16, "Patch side of a teacher from scratch, in pixels.", ge=1)
    image_size: int = knob(224, "Side of the square input, in pixels.", panel=DATA, first=True, ge=1)
    linear_probe: bool = knob(False, "Train the classifier only; the trunk stays as loaded.", panel=MODELS)
    epochs: int = knob(50, "Passes over the training images.", panel=OPTIMISATION, first=True, ge=1)
    batch_size: int = knob(64, "Images a step, over all processes.", panel=OPTIMISATION, first=True, ge=1)
    lr: float = knob(5e-4, "Peak learning rate.", panel=OPTIMISATION, gt=0)
    min_lr: float = knob(1e-6, "Learning rate at the end of the cosine.", ge=0)
    layer_decay: float = knob(0.75, "Factor on the learning rate from each block to the one below.", gt=0, le=1)
    smoothing: float = knob(0.1, "Label smoothing.", panel=OPTIMISATION, ge=0, lt=1)
    crop_scale: tuple[float, float] = knob((0.08, 1.0), "Area of the random crop as a share of the image.")
    interpolation: Literal["bicubic", "bilinear"] = knob("bilinear", "Resampling of the training crop.")
    augment: Literal["none", "trivial", "affine"] = knob("trivial", "TrivialAugmentWide, or a light affine jitter.")


class AliConfig(StudentConfig):
    """`cikd ali`; defaults: docs/method.md, stage 1, first group."""

    lob: int | Literal["auto"] = knob(
        10,
        "Learning objective block of the teacher, from 1, or 'auto'. cikd ali takes several (7,8,9): a student and a "
        "run each, on one pass of the teacher.",
        panel=MODELS,
        first=True,
    )
    pairs: tuple[tuple[int, int], ...] | None = knob(
        None, "Tapped blocks as teacher:student, e.g. 1:1,10:12.", panel=MODELS, unset="1:1 and LOB:last"
    )
    qk: bool = knob(True, "Copy the query-key relations.", panel=MODELS)
    vv: bool = knob(True, "Copy the value-value relations.", panel=MODELS)
    from_run: str | None = knob(None, "Run whose student to start from.", panel=MODELS, flag="--from")
    betas: tuple[float, float] = knob((0.9, 0.95), "AdamW betas.")
    jitter: Triple = knob((0.4, 0.4, 0.4), "Colour jitter of the student's view: brightness, contrast, saturation.")

    @field_validator("lob", mode="before")
    @classmethod
    def _check_lob(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) or (isinstance(value, str) and "," in value):
            raise ValueError("one block here (only cikd ali, by its flag --lob, takes several)")
        return value

    @field_validator("pairs", mode="before")
    @classmethod
    def _parse_pairs(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [pair.split(":") for pair in value.split(",")]
        return value


class LmConfig(StudentConfig):
    """`cikd lm`; defaults: docs/method.md, stage 2, first group."""

    from_run: str | None = knob(
        None, "ALI run whose student to start from.", panel=MODELS, flag="--from", first=True, unset="LM alone"
    )
    distill: bool = knob(True, "Use the teacher's logits; --no-distill is the plain fine-tune.", panel=MODELS)
    batch_size: int = knob(512, "Images a step, over all processes.", panel=OPTIMISATION, first=True, ge=1)
    min_lr: float = knob(1e-6, "Learning rate at the end of the cosine.", ge=0)
    layer_decay: float = knob(0.75, "Factor on the learning rate from each block to the one below.", gt=0, le=1)
    smoothing: float = knob(0.1, "Label smoothing.", panel=OPTIMISATION, ge=0, lt=1)
    alpha: float = knob(4.0, "Weight of NCKD (Table 7).", panel=OPTIMISATION, ge=0)
    w_tckd: float = knob(1.0, "Weight of TCKD.", ge=0)
    temperature: float = knob(1.0, "Temperature of the logits (Table 10).", panel=OPTIMISATION, gt=0)
    nckd_weighting: Literal["unweighted", "teacher"] = knob(
        "unweighted", "'teacher' multiplies NCKD by the teacher's non-target mass (eq. 12 as printed)."
    )
    kd_t2: bool = knob(True, "Multiply the distillation by the squared temperature.")
    teacher_cache: str | None = knob(
        None, "Folder that keeps the teacher's logits for later runs, or 'auto'.", panel=MODELS, unset="off"
    )
    views_per_image: int = knob(
        0,
        "Views of an image, shown in turn, so that the teacher (kept in a cache) sees each once; 0: a new one every "
        "epoch. Fewer cost accuracy.",
        panel=MODELS,
        ge=0,
    )
    kd_warmup_epochs: int = knob(5, "Epochs over which the distillation weight rises from 0 to 1.", ge=0)
    crop_scale: tuple[float, float] = knob((0.08, 1.0), "Area of the random crop as a share of the image.")
    interpolation: Literal["bicubic", "bilinear"] = knob("bilinear", "Resampling of the training crop.")
    augment: Literal["none", "trivial", "affine"] = knob("trivial", "TrivialAugmentWide, or a light affine jitter.")


class EvalConfig(StageConfig):
    """`cikd eval RUN`."""

    data: str | None = knob(
        None, "Data set or folder with the same classes.", panel=DATA, first=True, unset="the run's own"
    )
    data_root: str | None = knob(
        None, "Folder in which named data sets lie.", panel=DATA, first=True, unset="the run's own"
    )
    split: Literal["test", "val", "train"] = knob("test", "Which images to score.", panel=DATA, first=True)
    batch_size: int = knob(64, "Images a pass.", panel=HARDWARE, first=True, ge=1)
    precision: Precision = knob("fp32", "Arithmetic of the networks.", panel=HARDWARE, first=True)
    latency: bool = knob(
        True, "Measure the time of one image on the CPU and, if there is one, the GPU.", panel=ANALYSIS, first=True
    )


class MadConfig(StageConfig):
    """`cikd mad RUN...`; 128 images: docs/method.md."""

    data: str | None = knob(None, "Data set or folder.", panel=DATA, first=True, unset="the first run's own")
    data_root: str | None = knob(
        None, "Folder in which named data sets lie.", panel=DATA, first=True, unset="the run's own"
    )
    image_size: int | None = knob(
        None, "Side of the input for a timm name, in pixels.", panel=DATA, first=True, unset="its own", ge=1
    )
    images: int = knob(128, "Test images to average over.", panel=ANALYSIS, first=True, ge=1)
    batch_size: int = knob(32, "Images a pass.", panel=HARDWARE, first=True, ge=1)


class CkaConfig(StageConfig):
    """`cikd cka RUN...`; at least 1,024 images in batches of 128: docs/method.md."""

    teacher: str | None = knob(None, "Model to compare with.", panel=MODELS, first=True, unset="the run's own teacher")
    data: str | None = knob(None, "Data set or folder.", panel=DATA, first=True, unset="the first run's own")
    data_root: str | None = knob(
        None, "Folder in which named data sets lie.", panel=DATA, first=True, unset="the run's own"
    )
    images: int = knob(1024, "Test images to use.", panel=ANALYSIS, first=True, ge=4)
    batch_size: int = knob(128, "Images of one unbiased estimate; at least 4.", panel=ANALYSIS, first=True, ge=4)


class CurriculumConfig(StageConfig):
    """`cikd run`: the whole curriculum; `--set ali.epochs=100` reaches into a stage."""

    finetune_teacher: FinetuneTeacherConfig = Field(default_factory=FinetuneTeacherConfig)
    ali: AliConfig = Field(default_factory=AliConfig)
    lm: LmConfig = Field(default_factory=LmConfig)
    baseline: bool = knob(False, "Also train the same student with labels only, for as many steps.", panel=MODELS)
