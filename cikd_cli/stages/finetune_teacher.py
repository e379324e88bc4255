"""`cikd finetune-teacher`: a pretrained ViT (or a small one from scratch) learns the data set's classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from cikd_cli.analysis.pretrained import neighbour_test
from cikd_cli.config import FinetuneTeacherConfig
from cikd_cli.console import Reporter
from cikd_cli.data.sources import DataSource
from cikd_cli.engine.optim import LABEL_NO_DECAY
from cikd_cli.errors import CikdError
from cikd_cli.methods.supervised import Supervised
from cikd_cli.models import teachers, vit
from cikd_cli.models.foreign import architecture_of, load_foreign
from cikd_cli.models.weights import HALF, ModelSpec, Triple, load_model, pretraining_statistics, read_spec
from cikd_cli.options import Request
from cikd_cli.runs import RunDir
from cikd_cli.stages import training
from cikd_cli.stages.job import (
    Job,
    check_recorded_heads,
    describe_data,
    describe_network,
    open_source,
    trainable_groups,
)

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Start:
    """A teacher before its fine-tuning, and where it came from."""

    model: VisionTransformer
    architecture: str
    mean: Triple
    std: Triple
    origin: str
    pretrained: bool = True
    parent: RunDir | None = None


def run(request: Request) -> dict[str, Any]:
    """Train a teacher with labels; the summary for --json."""
    return training.run(request, FinetuneTeacherConfig, build=build)


def build(config: FinetuneTeacherConfig, device: torch.device, *, fetch: bool = True) -> Job:
    """Data, teacher and the method; raises CikdError for whatever cannot work.

    fetch: download the weights that timm names; else, where they are not in the cache, the network has random ones.
    """
    source = open_source(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        start = _start(config, len(source.classes)) if fetch or _at_hand(config) else _shape(config, source.classes)
        if start.pretrained:
            _new_classifier(start.model)
    mean, std = config.mean or start.mean, config.std or start.std
    spec = ModelSpec.describe(start.model, start.architecture, classes=source.classes, mean=mean, std=std)
    facts = [("teacher", f"{start.architecture} {describe_network(spec, start.model)}, {start.origin}")]
    facts.append(("data", describe_data(source, config)))
    method = Supervised(start.model, mean=mean, std=std, smoothing=config.smoothing, linear_probe=config.linear_probe)
    return Job(
        config=config.model_copy(update={"mean": mean, "std": std}),
        source=source,
        method=method,
        model=start.model,
        spec=spec,
        groups=trainable_groups(start.model, config, LABEL_NO_DECAY),
        parents=[start.parent] if start.parent else [],
        facts=facts,
        examine=(lambda out: _zero_shot(start.model, source, spec, device, out)) if start.pretrained else None,
    )


def _new_classifier(model: VisionTransformer) -> None:
    """Every head (a distilled DeiT has two) starts near zero: weights trunc-normal 3e-5 (docs/method.md), biases 0."""
    for name, parameter in model.named_parameters():
        if name.startswith("head"):
            torch.nn.init.trunc_normal_(parameter, std=3e-5) if parameter.ndim > 1 else torch.nn.init.zeros_(parameter)


def _at_hand(config: FinetuneTeacherConfig) -> bool:
    """Whether the teacher's weights need no download."""
    named = config.teacher
    return named == "scratch" or Path(named).exists() or Path(named).suffix in WEIGHTS or teachers.in_cache(named)


def _shape(config: FinetuneTeacherConfig, classes: tuple[str, ...]) -> Start:
    """The network of a timm name without its weights."""
    model = teachers.create_teacher(config.teacher, num_classes=len(classes), image_size=config.image_size)
    vit.check_patch(config.image_size, model.patch_embed.patch_size[0])
    statistics = pretraining_statistics(config.teacher)
    return Start(model, config.teacher, *statistics, "whose weights are still to be downloaded", pretrained=False)


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
    path = Path(config.teacher)
    if path.is_dir():
        parent = RunDir.open(path, stages=("finetune-teacher",))
        model, spec = _own_weights(parent.weights, config, classes)
        check_recorded_heads(parent, spec)
        return Start(model, spec.architecture, spec.mean, spec.std, f"from {parent.path}", parent=parent)
    if path.suffix in WEIGHTS:
        return _from_file(path, config, classes)
    model = teachers.create_teacher(config.teacher, num_classes=classes, image_size=config.image_size, pretrained=True)
    vit.check_patch(config.image_size, model.patch_embed.patch_size[0])
    return Start(model, config.teacher, *pretraining_statistics(config.teacher), "pretrained weights from timm")


def _from_file(path: Path, config: FinetuneTeacherConfig, classes: int) -> Start:
    if not path.is_file():
        raise CikdError(f"There is no weights file {path}.", hint="check the path given to --teacher")
    if path.suffix == ".safetensors" and read_spec(path) is not None:
        model, spec = _own_weights(path, config, classes)
        return Start(model, spec.architecture, spec.mean, spec.std, f"from {path}")
    architecture = architecture_of(path, config.teacher_arch)
    model = load_foreign(path, architecture, num_classes=classes, image_size=config.image_size)
    return Start(model, architecture, *pretraining_statistics(architecture), f"pretrained weights {path}")


def _own_weights(path: Path, config: FinetuneTeacherConfig, classes: int) -> tuple[VisionTransformer, ModelSpec]:
    model, spec = load_model(path)
    if spec.image_size != config.image_size:
        vit.check_patch(config.image_size, spec.patch_size)
        model.set_input_size(img_size=config.image_size)
    model.reset_classifier(classes)
    return model, spec


def _zero_shot(
    model: VisionTransformer, source: DataSource, spec: ModelSpec, device: torch.device, out: Reporter
) -> None:
    """Say whether the weights know anything before the first step; warn when they do not."""
    found = neighbour_test(model, source.train, spec, device=device)
    text = (
        f"nearest neighbours of {found.images} images agree for {found.loaded:.0f} %, "
        f"{found.untrained:.0f} % with random weights"
    )
    if found.loaded <= found.untrained:
        out.warn(f"these weights look untrained ({text}); check --teacher and its file")
    else:
        out.fields([("zero-shot", text)])
