"""The networks that an analysis looks at: of runs, of weights files, or timm's by name."""

from dataclasses import dataclass
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer

from cikd_cli.models.pretrained import is_pretrained_name, open_pretrained, own_file
from cikd_cli.models.weights import ModelSpec, load_model
from cikd_cli.runs.directory import RunDir

TEACHER = "finetune-teacher"
STAGES_WITH_WEIGHTS = (TEACHER, "ali", "lm")


@dataclass(frozen=True)
class Subject:
    """A network under study. name: as typed; label: as shown; run: none for a weights file or a timm name."""

    name: str
    label: str
    model: VisionTransformer
    spec: ModelSpec
    run: RunDir | None = None

    @property
    def weights_sha256(self) -> str | None:
        """The hash of a run's weights."""
        return str(self.run.record["weights"]["sha256"]) if self.run else None


def find_run(name: str) -> RunDir | None:
    """The run of this path; None for a weights file or a timm name.

    Raises:
        CikdError: neither, or an unfinished, edited or foreign run.
    """
    path = Path(name)
    if path.is_file() or (not path.exists() and is_pretrained_name(name)):
        return None
    return RunDir.open(path, stages=STAGES_WITH_WEIGHTS)


def open_subject(name: str, *, image_size: int | None = None) -> Subject:
    """The network of a run, of a weights file, or of a timm name (weights from the hub or its cache).

    image_size: for a timm name or a file from elsewhere; none: the size it was pretrained at.

    Raises:
        CikdError: as `find_run`, or weights that cannot be had.
    """
    run = find_run(name)
    if run is not None:
        return open_run(run)
    own = own_file(name)
    if own is not None:
        return Subject(name, own.name, *load_model(own))
    found = open_pretrained(name, num_classes=0, image_size=image_size)
    spec = ModelSpec.describe(found.model, found.architecture, classes=(), mean=found.mean, std=found.std)
    return Subject(name, Path(name).name if Path(name).exists() else name, found.model.eval(), spec)


def open_run(run: RunDir) -> Subject:
    """The network of a run that RunDir.open let pass."""
    return Subject(str(run.path), str(run.path), *load_model(run.weights), run)


def teacher_of(run: RunDir) -> RunDir | None:
    """The teacher a run descends from; None if it has none. Raises CikdError if it is gone or was made again."""
    return run.parent(TEACHER) if run.has_ancestor(TEACHER) else None
