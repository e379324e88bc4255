"""STAGES: the one table of commands. Nothing else in the program compares the name of a stage.

No stage module is imported here, so that `--help` never loads torch, and no knobs, so that `cikd --help` does not wait.
"""

from dataclasses import dataclass
from enum import Flag, auto
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from cikd_cli.settings.configs import StageConfig

RUNS_DIR_VARIABLE = "CIKD_RUNS_DIR"
TEACHER, STUDENT, CLASSES = "teacher", "student", "classes"  # what a run gives to others


class Kind(Flag):
    """Kinds of commands."""

    TRAINING = auto()
    CURRICULUM = auto()
    ANALYSIS = auto()
    BENCH = auto()


LONG = Kind.TRAINING | Kind.CURRICULUM  # commands that take hours
EVERY = LONG | Kind.ANALYSIS | Kind.BENCH


@dataclass(frozen=True)
class Stage:
    """One command.

    module has `run(request: Request) -> dict`, the --json summary; knobs says where `config` is (module:class);
    arguments says whether it takes RUN words, and argument_help what they may be; networks: whether these may be timm
    names and files too; several is the knob whose flag takes a list too, for a run each. curriculum: whether `cikd run`
    goes through it, in the order of the table.

    Of a training stage: method says what it trains (module:function, see `methods`); prefix names its runs (`ali-001`);
    gives: what its runs are good for, so that knobs may take them (`knob.Facts.takes`); labels: whether it reads
    labels; learns: from what, for a card; title: its network in a table; then: what to type next, RUN being the run.
    """

    command: str
    kind: Kind
    module: str
    knobs: str
    summary: str
    examples: tuple[str, ...]
    arguments: Literal["none", "run", "runs"] = "none"
    argument_help: str = "Run directories."
    networks: bool = False
    beside: bool = False
    several: str | None = None
    curriculum: bool = False
    method: str = ""
    prefix: str = ""
    gives: frozenset[str] = frozenset()
    labels: bool = True
    learns: str = ""
    title: str = ""
    then: tuple[str, ...] = ()

    @property
    def config(self) -> "type[StageConfig]":
        """The class of its knobs; loaded when asked for, because a list of commands does without."""
        found: type[StageConfig] = _named(self.knobs)
        return found

    @property
    def build(self) -> Any:
        """What makes its method, `build(config, given)`; loads torch."""
        return _named(self.method)

    @property
    def trains(self) -> bool:
        """Whether it makes a run."""
        return self.kind is Kind.TRAINING

    def next(self, run: object) -> str:
        """What to type after a run of this stage."""
        return " · ".join(command.replace("RUN", str(run)) for command in self.then)


def _named(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)


_ALL = (
    Stage(
        "run",
        Kind.CURRICULUM,
        "cikd_cli.stages.curriculum",
        "cikd_cli.settings.methods:CurriculumConfig",
        "The whole curriculum: finetune-teacher, ali, lm, eval, mad and cka, each in its own run. Started again, it "
        "goes on with what is missing. Without --data it uses the handwritten digits that come with scikit-learn.",
        ("cikd run", "cikd run --data ./photos --gpus all", "cikd run --data flowers --set ali.epochs=300 --dry-run"),
    ),
    Stage(
        "finetune-teacher",
        Kind.TRAINING,
        "cikd_cli.stages.train",
        "cikd_cli.settings.methods:FinetuneTeacherConfig",
        "Stage 0: a pretrained Vision Transformer learns the classes of a data set; ali and lm copy from it.",
        (
            "cikd finetune-teacher --data cifar100 --gpus 4",
            "cikd finetune-teacher --data ./photos --teacher deit_tiny_patch16_224",
            "cikd finetune-teacher --resume runs/teacher-001",
        ),
        curriculum=True,
        method="cikd_cli.methods.supervised:build",
        prefix="teacher",
        gives=frozenset({TEACHER, CLASSES}),
        title="teacher",
        then=("cikd ali --teacher RUN",),
    ),
    Stage(
        "ali",
        Kind.TRAINING,
        "cikd_cli.stages.train",
        "cikd_cli.settings.methods:AliConfig",
        "Stage 1, Attention Locality Imitation: the student copies the teacher's QK and VV attention at block 1 and at "
        "the learning objective block (LOB). Labels are not used.",
        (
            "cikd ali --data cifar100 --lob 10 --gpus 4",
            "cikd ali --data ./photos --teacher runs/teacher-003 --lob auto",
            "cikd ali --data flowers --lob 7,8,9,10 --name flowers",
            "cikd ali --resume runs/ali-001",
        ),
        several="lob",
        curriculum=True,
        method="cikd_cli.methods.ali:build",
        prefix="ali",
        gives=frozenset({STUDENT}),
        labels=False,
        learns="the teacher's attention (ALI)",
        title="student, ALI",
        then=("cikd lm --from RUN",),
    ),
    Stage(
        "lm",
        Kind.TRAINING,
        "cikd_cli.stages.train",
        "cikd_cli.settings.methods:LmConfig",
        "Stage 2, Logit Mimicking: the student learns the labels and the teacher's decoupled logits, starting from an "
        "ali run. Without --from it starts from scratch.",
        (
            "cikd lm --from runs/ali-001",
            "cikd lm --from runs/ali-001 --no-distill",
            "cikd lm --resume runs/lm-001",
        ),
        curriculum=True,
        method="cikd_cli.methods.lm:build",
        prefix="lm",
        gives=frozenset({STUDENT, CLASSES}),
        learns="labels and the teacher's logits (LM)",
        title="student, ALI + LM",
        then=("cikd eval RUN", "cikd mad RUN", "cikd cka RUN"),
    ),
    Stage(
        "eval",
        Kind.ANALYSIS,
        "cikd_cli.stages.evaluate",
        "cikd_cli.settings.analyses:EvalConfig",
        "Accuracy, per-class table, confusion matrix, size and latency of a run, with its teacher beside it.",
        ("cikd eval runs/lm-001", "cikd eval runs/lm-001 --json"),
        arguments="run",
        curriculum=True,
    ),
    Stage(
        "mad",
        Kind.ANALYSIS,
        "cikd_cli.stages.mad",
        "cikd_cli.settings.analyses:MadConfig",
        "Mean attention distance, in pixels, of every head of every block, for runs or timm models side by side.",
        (
            "cikd mad runs/lm-001",
            "cikd mad runs/lm-001 runs/teacher-001",
            "cikd mad deit_tiny_patch16_224 --data ./photos",
        ),
        arguments="runs",
        argument_help="Run directories, or timm model names.",
        beside=True,
        networks=True,
        curriculum=True,
    ),
    Stage(
        "cka",
        Kind.ANALYSIS,
        "cikd_cli.stages.cka",
        "cikd_cli.settings.analyses:CkaConfig",
        "Similarity (unbiased linear CKA) of every layer of a run to every layer of its teacher.",
        ("cikd cka runs/lm-001", "cikd cka runs/lm-001 runs/lm-002 --teacher runs/teacher-001"),
        arguments="runs",
        networks=True,
        curriculum=True,
    ),
    Stage(
        "bench",
        Kind.BENCH,
        "cikd_cli.bench.command",
        "cikd_cli.bench.config:BenchConfig",
        "Speed and memory of the training steps on this machine, beside the authors' steps, on random weights and "
        "images. With a recipe, the hours that its epochs take.",
        (
            "cikd bench",
            "cikd bench --recipe cifar100",
            "cikd bench --what ali,relation-kl --batch-size 8 --precision fp32",
            "cikd bench --sweep",
        ),
    ),
)

STAGES: dict[str, Stage] = {stage.command: stage for stage in _ALL}


def training_stages(giving: str | None = None) -> dict[str, Stage]:
    """The stages that make runs, by command; giving: those whose runs give this."""
    return {name: stage for name, stage in STAGES.items() if stage.trains and giving in (None, *stage.gives)}


def sections() -> "dict[str, type[StageConfig]]":
    """The knobs of every training stage, by command: the sections that a recipe may have."""
    return {name: stage.config for name, stage in training_stages().items()}


def curriculum(kind: Kind) -> dict[str, Stage]:
    """The stages of a kind that `cikd run` goes through, in order, by command."""
    return {name: stage for name, stage in STAGES.items() if stage.curriculum and stage.kind is kind}
