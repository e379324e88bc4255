"""The networks that an analysis looks at: of runs, of weights files, or timm's by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer

from cikd_cli.errors import CikdError
from cikd_cli.models.pretrained import is_pretrained_name, open_pretrained
from cikd_cli.models.spec import ModelSpec
from cikd_cli.runs.ancestry import has_ancestor, parent
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.stages import TEACHER
from cikd_cli.training.networks import load_run, open_own


@dataclass(frozen=True)
class Subject:
    """A network under study. name: as typed; label: as shown; run: none for a weights file or a timm name."""

    name: str
    label: str
    model: Any
    spec: ModelSpec
    run: RunDir | None = None

    @property
    def weights_sha256(self) -> str | None:
        """The hash of a run's weights."""
        return self.run.sha256 if self.run else None


def find_run(name: str) -> RunDir | None:
    """The run of this path; None for a weights file or a timm name.

    Raises:
        CikdError: neither, or an unfinished, edited or foreign run.
    """
    path = Path(name)
    if path.is_file() or (not path.exists() and is_pretrained_name(name)):
        return None
    return RunDir.open(path)


def open_subject(name: str, *, image_size: int | None = None) -> Subject:
    """The network of a run, of a weights file, or of a timm name (weights from the hub or its cache).

    image_size: for a timm name or a file from elsewhere; none: the size it was pretrained at.

    Raises:
        CikdError: as `find_run`, or weights that cannot be had.
    """
    run = find_run(name)
    if run is not None:
        return open_run(run)
    own = open_own(name)
    if own is not None:
        return Subject(name, Path(name).name, *own)
    found = open_pretrained(name, num_classes=0, image_size=image_size)
    spec = ModelSpec.describe(found.model, found.architecture, classes=(), mean=found.mean, std=found.std)
    return Subject(name, Path(name).name if Path(name).exists() else name, found.model.eval(), spec)


def check_vit(subject: Subject) -> None:
    """Refuse a network whose attention and layers are not those of a plain Vision Transformer."""
    if not isinstance(subject.model, VisionTransformer):
        kind = type(subject.model).__name__
        raise CikdError(
            f"{subject.label} is a {kind}; only Vision Transformers are looked into.",
            hint="cikd eval RUN scores any network",
        )


def open_run(run: RunDir) -> Subject:
    """The network of a run that RunDir.open let pass."""
    return Subject(str(run.path), str(run.path), *load_run(run), run)


def teacher_of(run: RunDir) -> RunDir | None:
    """The teacher a run descends from; None if it has none. Raises CikdError if it is gone or was made again."""
    return parent(run, TEACHER) if has_ancestor(run, TEACHER) else None
