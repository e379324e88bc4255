"""The networks that words name: a teacher to fine-tune, a student made for its teacher, the student of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cikd_cli.errors import CikdError
from cikd_cli.files import is_file
from cikd_cli.models import teachers
from cikd_cli.models.network import classifier, classifier_names, create_timm, head_counts, patch_size
from cikd_cli.models.places import find_place
from cikd_cli.models.pretrained import open_pretrained, own_file
from cikd_cli.models.spec import HALF, ModelSpec, Triple
from cikd_cli.models.vit import CUSTOM, STUDENTS, create_student
from cikd_cli.models.weights import load_model, pretraining_statistics
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.reading import COPY_AGAIN
from cikd_cli.settings.configs import StudentConfig
from cikd_cli.settings.methods import FinetuneTeacherConfig
from cikd_cli.settings.patches import STUDENT_PATCH, check_patch
from cikd_cli.settings.stages import TEACHER

STUDENT_HEADS = 12  # at both ends of a student without a teacher


@dataclass(frozen=True)
class Start:
    """A teacher before its fine-tuning, and where it came from."""

    model: nn.Module
    architecture: str
    mean: Triple
    std: Triple
    origin: str
    pretrained: bool = True
    parent: RunDir | None = None


def named_network(config: FinetuneTeacherConfig, classes: tuple[str, ...], *, fetch: bool = True) -> Start:
    """The network that --teacher names, with a new classifier.

    fetch: download the weights that timm names; else, where they are not in the cache, the network has random ones.
    """
    with seeded(config.seed):
        start = _start(config, len(classes)) if fetch or _at_hand(config) else _shape(config, classes)
        if start.pretrained:
            _new_classifier(start.model)
    return start


def new_student(
    config: StudentConfig, teacher: nn.Module | None, teacher_spec: ModelSpec | None, *, classes: tuple[str, ...]
) -> tuple[nn.Module, ModelSpec]:
    """An untrained student, normalised as its teacher; ours have its heads at both ends, and its patches."""
    mean = config.mean or (teacher_spec.mean if teacher_spec else HALF)
    std = config.std or (teacher_spec.std if teacher_spec else HALF)
    ours = config.student in (*STUDENTS, CUSTOM)
    counts = head_counts(teacher) if teacher is not None else ()
    with seeded(config.seed):
        student = (
            create_student(
                config.student,
                num_classes=len(classes),
                image_size=config.image_size,
                patch_size=(teacher is not None and patch_size(teacher)) or STUDENT_PATCH,
                end_heads=counts[0] if counts else STUDENT_HEADS,
                width=config.student_width,
                depth=config.student_depth,
                heads=config.student_heads,
                drop_path=config.drop_path,
            )
            if ours
            else create_timm(
                config.student, num_classes=len(classes), image_size=config.image_size, drop_path=config.drop_path
            )
        )
    spec = ModelSpec.describe(
        student,
        "student" if ours else config.student,
        classes=classes,
        mean=mean,
        std=std,
        image_size=config.image_size,
        drop_path=config.drop_path,
    )
    return student, spec


def load_trunk(run: RunDir, *, classes: tuple[str, ...], drop_path: float, seed: int) -> tuple[nn.Module, ModelSpec]:
    """The student of a run with a fresh classifier for `classes`, or none."""
    with seeded(seed):  # for the classifier, which is new (docs/method.md)
        trained, spec = load_run(run)
        spec = spec.with_classes(classes, drop_path=drop_path)
        student = spec.build()
    old = classifier_names(trained)
    tensors = {name: tensor for name, tensor in trained.state_dict().items() if name not in old}
    student.load_state_dict(student.state_dict() | tensors)
    return student, spec


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Around the making of networks, which draws from torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def open_own(word: str, *, giving: str | None = None) -> tuple[nn.Module, ModelSpec, RunDir | None] | None:
    """The network of a run, which has to give this, or of a file that cikd wrote; None for any other word."""
    if is_file(Path(word) / "run.json"):
        run = RunDir.open(word, giving=giving)
        return *load_run(run), run
    own = own_file(word)
    return (*load_model(own), None) if own is not None else None


def load_run(run: RunDir) -> tuple[nn.Module, ModelSpec]:
    """The network of a run that RunDir.open let pass; CikdError for weights with other heads than it recorded."""
    model, spec = load_model(run.weights)
    recorded = tuple(run.record.model.heads)
    if recorded != spec.heads:
        raise CikdError(
            f"{run.path} records {list(recorded)} heads, its weights file says {list(spec.heads)}; "
            "the same tensors with other heads are another network.",
            hint=COPY_AGAIN,
        )
    return model, spec


def _new_classifier(model: nn.Module) -> None:
    """Every head (a distilled DeiT has two) starts near zero: weights trunc-normal 3e-5 (docs/method.md), biases 0."""
    for layer in classifier(model):
        for parameter in layer.parameters():
            torch.nn.init.trunc_normal_(parameter, std=3e-5) if parameter.ndim > 1 else torch.nn.init.zeros_(parameter)


def _at_hand(config: FinetuneTeacherConfig) -> bool:
    """Whether the teacher's weights need no download."""
    named = config.teacher
    if named == "scratch" or is_file(Path(named) / "run.json"):
        return True
    place = find_place(named)
    return place.kind != "timm" or teachers.in_cache(place.text)


def _shape(config: FinetuneTeacherConfig, classes: tuple[str, ...]) -> Start:
    """The network of a timm name without its weights."""
    model = teachers.create_teacher(config.teacher, num_classes=len(classes), image_size=config.image_size)
    check_patch(config.image_size, model.patch_embed.patch_size[0])
    mean, std = pretraining_statistics(config.teacher)
    return Start(model, config.teacher, mean, std, "whose weights are still to be downloaded", pretrained=False)


def _start(config: FinetuneTeacherConfig, classes: int) -> Start:
    """The network that `--teacher` names: from scratch, a run, a weights file, or a timm name."""
    if config.teacher == "scratch":
        model = teachers.create_scratch_teacher(
            num_classes=classes,
            image_size=config.image_size,
            patch_size=config.teacher_patch,
            width=config.teacher_width,
            depth=config.teacher_depth,
            heads=config.teacher_heads,
        )
        return Start(model, "scratch", HALF, HALF, "from scratch", pretrained=False)
    own = open_own(config.teacher, giving=TEACHER)
    if own is not None:
        model, spec, parent = own
        _adapt(model, spec, config, classes)
        origin = f"from {parent.path if parent else own_file(config.teacher)}"
        return Start(model, spec.name, spec.mean, spec.std, origin, parent=parent)
    found = open_pretrained(
        config.teacher, num_classes=classes, image_size=config.image_size, architecture=config.teacher_arch
    )
    return Start(found.model, found.architecture, found.mean, found.std, found.origin)


def _adapt(model: Any, spec: ModelSpec, config: FinetuneTeacherConfig, classes: int) -> None:
    """Give a network of ours another image size and a classifier for other classes."""
    teachers.check_tappable(model, spec.name)
    check_patch(config.image_size, model.patch_embed.patch_size[0])
    if spec.image_size != config.image_size:
        model.set_input_size(img_size=config.image_size)
    model.reset_classifier(classes)
