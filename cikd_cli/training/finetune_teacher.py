"""`cikd finetune-teacher`: a pretrained ViT (or a small one from scratch) learns the data set's classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from cikd_cli.analysis.pretrained import neighbour_test
from cikd_cli.console import Reporter
from cikd_cli.data.sources import DataSource
from cikd_cli.engine.optim import LABEL_NO_DECAY
from cikd_cli.files import is_file
from cikd_cli.methods.supervised import Supervised
from cikd_cli.models import teachers
from cikd_cli.models.places import find_place, whole_name
from cikd_cli.models.pretrained import open_pretrained, own_file
from cikd_cli.models.weights import HALF, ModelSpec, Triple, load_model, pretraining_statistics
from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.configs import FinetuneTeacherConfig
from cikd_cli.settings.patches import check_patch
from cikd_cli.settings.request import Request
from cikd_cli.training import begin
from cikd_cli.training.job import Job, check_recorded_heads, data_facts, describe_network, open_source, trainable_groups


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
    return begin.run(request, FinetuneTeacherConfig, build=build)


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
    facts += data_facts(source, config)
    method = Supervised(start.model, mean=mean, std=std, smoothing=config.smoothing, linear_probe=config.linear_probe)
    return Job(
        config=config.model_copy(update={"mean": mean, "std": std, "teacher": whole_name(config.teacher)}),
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
    path = Path(config.teacher)
    if is_file(path / "run.json"):
        parent = RunDir.open(path, stages=("finetune-teacher",))
        model, spec = _own_weights(parent.weights, config, classes)
        check_recorded_heads(parent, spec)
        return Start(model, spec.architecture, spec.mean, spec.std, f"from {parent.path}", parent=parent)
    own = own_file(config.teacher)
    if own is not None:
        model, spec = _own_weights(own, config, classes)
        return Start(model, spec.architecture, spec.mean, spec.std, f"from {own}")
    found = open_pretrained(
        config.teacher, num_classes=classes, image_size=config.image_size, architecture=config.teacher_arch
    )
    return Start(found.model, found.architecture, found.mean, found.std, found.origin)


def _own_weights(path: Path, config: FinetuneTeacherConfig, classes: int) -> tuple[VisionTransformer, ModelSpec]:
    model, spec = load_model(path)
    check_patch(config.image_size, spec.patch_size)
    if spec.image_size != config.image_size:
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
