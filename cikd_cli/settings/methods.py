"""The knobs of each training stage, beside those that all share."""

from typing import Any, Literal

from pydantic import Field, field_validator

from cikd_cli.settings.configs import StageConfig, StudentConfig, TrainingConfig
from cikd_cli.settings.knob import MODELS, OPTIMISATION, Role, Triple, changed, knob


class FinetuneTeacherConfig(TrainingConfig):
    """`cikd finetune-teacher`; defaults: docs/method.md, teacher fine-tuning."""

    # fmt: off
    teacher: str = knob(
        "vit_base_patch16_224.dino",
        "timm name, weights file or a folder with one, hf-hub:OWNER/NAME, a run, or 'scratch' (teacher_width, ...).",
        panel=MODELS, first=True, role=Role.COMMON | Role.TOLD)
    teacher_arch: str | None = knob(
        None, "timm architecture of a weights file that does not name one.", panel=MODELS, role=Role.COMMON)
    teacher_width: int = knob(192, "Width of a teacher from scratch.", ge=4)
    teacher_depth: int = knob(12, "Blocks of a teacher from scratch.", ge=1)
    teacher_heads: int = knob(3, "Heads of a teacher from scratch.", ge=1)
    teacher_patch: int = knob(16, "Patch side of a teacher from scratch, in pixels.", ge=1)
    image_size: int = changed(TrainingConfig, "image_size", 224, first=True)
    linear_probe: bool = knob(False, "Train the classifier only; the trunk stays as loaded.", panel=MODELS)
    epochs: int = changed(TrainingConfig, "epochs", 50)
    batch_size: int = changed(TrainingConfig, "batch_size", 64)
    lr: float = changed(TrainingConfig, "lr", 5e-4)
    min_lr: float = changed(TrainingConfig, "min_lr", 1e-6)
    layer_decay: float = changed(TrainingConfig, "layer_decay", 0.75)
    smoothing: float = knob(0.1, "Label smoothing.", panel=OPTIMISATION, ge=0, lt=1)
    crop_scale: tuple[float, float] = changed(TrainingConfig, "crop_scale", (0.08, 1.0))
    interpolation: Literal["bicubic", "bilinear"] = changed(TrainingConfig, "interpolation", "bilinear")
    augment: Literal["none", "trivial", "affine"] = changed(TrainingConfig, "augment", "trivial")
    # fmt: on


class AliConfig(StudentConfig):
    """`cikd ali`; defaults: docs/method.md, stage 1, first group."""

    # fmt: off
    lob: int | Literal["auto"] = knob(
        10,
        "Learning objective block of the teacher, from 1, or 'auto'. cikd ali takes several (7,8,9): a student and "
        "a run each, on one pass of the teacher.",
        panel=MODELS, first=True, metavar="INT|auto", role=Role.COMMON)
    pairs: tuple[tuple[int, int], ...] | None = knob(
        None, "Tapped blocks as teacher:student, e.g. 1:1,10:12.", panel=MODELS, metavar="T:S,...",
        unset="1:1 and LOB:last")
    qk: bool = knob(True, "Copy the query-key relations.", panel=MODELS)
    vv: bool = knob(True, "Copy the value-value relations.", panel=MODELS)
    betas: tuple[float, float] = changed(TrainingConfig, "betas", (0.9, 0.95))
    jitter: Triple = changed(
        TrainingConfig, "jitter", (0.4, 0.4, 0.4),
        "Colour jitter of the student's view: brightness, contrast, saturation.")
    # fmt: on

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

    # fmt: off
    from_run: str | None = changed(
        StudentConfig, "from_run", None, "ALI run whose student to start from.", first=True, unset="LM alone")
    distill: bool = knob(True, "Use the teacher's logits; --no-distill is the plain fine-tune.", panel=MODELS)
    batch_size: int = changed(TrainingConfig, "batch_size", 512)
    min_lr: float = changed(TrainingConfig, "min_lr", 1e-6)
    layer_decay: float = changed(TrainingConfig, "layer_decay", 0.75)
    smoothing: float = knob(0.1, "Label smoothing.", panel=OPTIMISATION, ge=0, lt=1)
    alpha: float = knob(4.0, "Weight of NCKD (Table 7).", panel=OPTIMISATION, ge=0)
    w_tckd: float = knob(1.0, "Weight of TCKD.", ge=0)
    temperature: float = knob(1.0, "Temperature of the logits (Table 10).", panel=OPTIMISATION, gt=0)
    nckd_weighting: Literal["unweighted", "teacher"] = knob(
        "unweighted", "'teacher' multiplies NCKD by the teacher's non-target mass (eq. 12 as printed).")
    kd_t2: bool = knob(True, "Multiply the distillation by the squared temperature.")
    teacher_cache: str | None = knob(
        None, "Folder that keeps the teacher's logits for later runs, or 'auto'.", panel=MODELS, metavar="DIR|auto",
        role=Role.PLACE | Role.TOLD, unset="off")
    views_per_image: int = knob(
        0,
        "Views of an image, shown in turn, so that the teacher (kept in a cache) sees each once; 0: a new one every"
        " epoch. Fewer cost accuracy.",
        panel=MODELS, ge=0)
    kd_warmup_epochs: int = knob(5, "Epochs over which the distillation weight rises from 0 to 1.", ge=0)
    crop_scale: tuple[float, float] = changed(TrainingConfig, "crop_scale", (0.08, 1.0))
    interpolation: Literal["bicubic", "bilinear"] = changed(TrainingConfig, "interpolation", "bilinear")
    augment: Literal["none", "trivial", "affine"] = changed(TrainingConfig, "augment", "trivial")
    # fmt: on

    @property
    def needs_teacher(self) -> bool:
        """Labels alone do without."""
        return self.distill


class CurriculumConfig(StageConfig):
    """`cikd run`: the whole curriculum; `--set ali.epochs=100` reaches into a stage."""

    # fmt: off
    finetune_teacher: FinetuneTeacherConfig = Field(default_factory=FinetuneTeacherConfig)
    ali: AliConfig = Field(default_factory=AliConfig)
    lm: LmConfig = Field(default_factory=LmConfig)
    baseline: bool = knob(
        False, "Also train the same student with labels only, for as many steps.", panel=MODELS, plain=True)
    # fmt: on
