"""STAGES: what each command is called, which module does it, which knobs it has, and what `--help` says.

No stage module is imported here, so that `--help` never loads torch, and no knobs, so that `cikd --help` does not wait.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cikd_cli.settings.configs import StageConfig

RUNS_DIR_VARIABLE = "CIKD_RUNS_DIR"
_SHARED = ("config", "set", "gpus", "workers", "runs_dir", "quiet", "as_json")
_TRAINING = (
    *_SHARED,
    "recipe",
    "processes",
    "views",
    "name",
    "resume",
    "go_on",
    "save_every",
    "stall_after",
    "dry_run",
)
_CURRICULUM = (*_SHARED, "recipe", "processes", "views", "save_every", "stall_after", "dry_run", "fresh")


@dataclass(frozen=True)
class Stage:
    """One command.

    module has `run(request: Request) -> dict`, the --json summary; knobs says where `config` is (module:class); prefix
    names its runs (`ali-001`), empty if it makes none; options are the fields of RunOptions it takes; arguments says
    whether it takes RUN words; several is the knob whose flag takes a list too, for a run each.
    """

    command: str
    module: str
    knobs: str
    prefix: str
    summary: str
    examples: tuple[str, ...]
    arguments: Literal["none", "run", "runs"] = "none"
    options: tuple[str, ...] = _TRAINING
    several: str | None = None

    @property
    def config(self) -> "type[StageConfig]":
        """The class of its knobs; loaded when asked for, because a list of commands does without."""
        module, name = self.knobs.split(":")
        found: type[StageConfig] = getattr(import_module(module), name)
        return found

    @property
    def trains(self) -> bool:
        """Whether it makes a run."""
        return bool(self.prefix)


_ALL = (
    Stage(
        "run",
        "cikd_cli.stages.curriculum",
        "cikd_cli.settings.configs:CurriculumConfig",
        "",
        "The whole curriculum: finetune-teacher, ali, lm, eval, mad and cka, each in its own run. Started again, it "
        "goes on with what is missing. Without --data it uses the handwritten digits that come with scikit-learn.",
        ("cikd run", "cikd run --data ./photos --gpus all", "cikd run --data flowers --set ali.epochs=300 --dry-run"),
        options=_CURRICULUM,
    ),
    Stage(
        "finetune-teacher",
        "cikd_cli.training.finetune_teacher",
        "cikd_cli.settings.configs:FinetuneTeacherConfig",
        "teacher",
        "Stage 0: a pretrained Vision Transformer learns the classes of a data set; ali and lm copy from it.",
        (
            "cikd finetune-teacher --data cifar100 --gpus 4",
            "cikd finetune-teacher --data ./photos --teacher deit_tiny_patch16_224",
            "cikd finetune-teacher --resume runs/teacher-001",
        ),
    ),
    Stage(
        "ali",
        "cikd_cli.training.ali",
        "cikd_cli.settings.configs:AliConfig",
        "ali",
        "Stage 1, Attention Locality Imitation: the student copies the teacher's QK and VV attention at block 1 and at "
        "the learning objective block (LOB). Labels are not used.",
        (
            "cikd ali --data cifar100 --lob 10 --gpus 4",
            "cikd ali --data ./photos --teacher runs/teacher-003 --lob auto",
            "cikd ali --data flowers --lob 7,8,9,10 --name flowers",
            "cikd ali --resume runs/ali-001",
        ),
        several="lob",
    ),
    Stage(
        "lm",
        "cikd_cli.training.lm",
        "cikd_cli.settings.configs:LmConfig",
        "lm",
        "Stage 2, Logit Mimicking: the student learns the labels and the teacher's decoupled logits, starting from an "
        "ali run. Without --from it starts from scratch.",
        (
            "cikd lm --from runs/ali-001",
            "cikd lm --from runs/ali-001 --no-distill",
            "cikd lm --resume runs/lm-001",
        ),
    ),
    Stage(
        "eval",
        "cikd_cli.stages.evaluate",
        "cikd_cli.settings.configs:EvalConfig",
        "",
        "Accuracy, per-class table, confusion matrix, size and latency of a run, with its teacher beside it.",
        ("cikd eval runs/lm-001", "cikd eval runs/lm-001 --json"),
        arguments="run",
        options=_SHARED,
    ),
    Stage(
        "mad",
        "cikd_cli.stages.mad",
        "cikd_cli.settings.configs:MadConfig",
        "",
        "Mean attention distance, in pixels, of every head of every block, for runs or timm models side by side.",
        (
            "cikd mad runs/lm-001",
            "cikd mad runs/lm-001 runs/teacher-001",
            "cikd mad deit_tiny_patch16_224 --data ./photos",
        ),
        arguments="runs",
        options=_SHARED,
    ),
    Stage(
        "cka",
        "cikd_cli.stages.cka",
        "cikd_cli.settings.configs:CkaConfig",
        "",
        "Similarity (unbiased linear CKA) of every layer of a run to every layer of its teacher.",
        ("cikd cka runs/lm-001", "cikd cka runs/lm-001 runs/lm-002 --teacher runs/teacher-001"),
        arguments="runs",
        options=_SHARED,
    ),
    Stage(
        "bench",
        "cikd_cli.bench.command",
        "cikd_cli.bench.config:BenchConfig",
        "",
        "Speed and memory of the training steps on this machine, beside the authors' steps, on random weights and "
        "images. With a recipe, the hours that its epochs take.",
        (
            "cikd bench",
            "cikd bench --recipe cifar100",
            "cikd bench --what ali,relation-kl --batch-size 8 --precision fp32",
            "cikd bench --sweep",
        ),
        options=("config", "set", "recipe", "gpus", "quiet", "as_json"),
    ),
)

STAGES: dict[str, Stage] = {stage.command: stage for stage in _ALL}
