"""What is refused before torch is loaded: all that names, folders and records of runs tell to be wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cikd_cli.data.layout import NearlyLayoutError, read_layout
from cikd_cli.errors import CikdError
from cikd_cli.files import has_weights_suffix, is_file
from cikd_cli.processes import environment
from cikd_cli.runs import numbering
from cikd_cli.runs.directory import RunDir, open_classifier
from cikd_cli.runs.inheritance import resolve_stage
from cikd_cli.runs.reading import locate, nearest_run, no_run
from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.knob import parent_knobs
from cikd_cli.settings.methods import CurriculumConfig, FinetuneTeacherConfig
from cikd_cli.settings.names import check_data, data_name, data_names, no_images
from cikd_cli.settings.patches import STUDENT_PATCH, check_patch, patch_of
from cikd_cli.settings.recipes import load_recipe
from cikd_cli.settings.request import Request, Resolved, gpu_numbers
from cikd_cli.settings.stages import TEACHER, Kind, Stage

_HUBS = ("hf-hub:", "hf_hub:", "local-dir:", "timm/")


def with_runs(stage: Stage, request: Request) -> Request:
    """The request with the folder of each run that is named: `lm-001` in the runs folder, or a file of a run.

    Raises:
        CikdError: there is no such run.
    """
    runs_dir = Path(request.options.runs_dir)

    def run(word: str) -> str:
        found = locate(word, runs_dir)
        if found is None:
            raise no_run(word, runs_dir)
        return str(found)

    def network(word: str) -> str:
        return _network(word, runs_dir)

    flags = dict(request.flags)
    for key, takes in parent_knobs(stage.config):
        if flags.get(key) and takes != TEACHER:
            flags[key] = run(flags[key])
    if flags.get(TEACHER):
        flags[TEACHER] = _teacher(stage, flags[TEACHER], run, network)
    options = request.options
    if options.resume:
        options = options.model_copy(update={"resume": run(options.resume)})
    runs = tuple((network if stage.networks else run)(word) for word in request.runs)
    return replace(request, flags=flags, options=options, runs=runs)


def check(stage: Stage, request: Request, resolved: Resolved) -> None:
    """Raise CikdError for whatever is wrong with a checked command line and can be known without torch.

    resolved: what was typed, over the recipe. Of several processes of a launcher none is checked here: they have to
    hear of it together.
    """
    if environment.started_by_launcher():
        return
    gpu_numbers(request.options.gpus)
    if isinstance(resolved.config, CurriculumConfig):
        _check_teacher(resolved.config.finetune_teacher)
    elif stage.trains:
        _check_training(stage, request)
    elif stage.arguments != "none":
        _check_analysis(stage, request, resolved.config)
    elif request.options.recipe is not None:
        load_recipe(request.options.recipe)


def no_weights_file(path: Path) -> CikdError:
    """The sentence about a weights file that is not there."""
    return CikdError(f"There is no weights file {path}.", hint="check the path given to --teacher")


def _network(word: str, runs_dir: Path) -> str:
    """A word that names a run, a weights file or a timm model, which only timm can tell from a misspelt run."""
    is_timm = word.startswith(_HUBS) or patch_of(word) is not None
    if is_timm and "/" not in word.removeprefix("timm/"):
        return word
    found = locate(word, runs_dir)
    if found is not None:
        return str(found)
    path = Path(word)
    if word.startswith(_HUBS) or path.exists():
        return word
    if "/" in word or "-" in word or has_weights_suffix(word) or nearest_run(word, [runs_dir]):
        raise no_run(word, runs_dir)
    return word


def _teacher(stage: Stage, word: str, run: Callable[[str], str], network: Callable[[str], str]) -> str:
    """What --teacher names: a run, for the teacher's own stage or for cka any network, else no run and not yet one."""
    makes = stage.kind is Kind.CURRICULUM or TEACHER in stage.gives
    if word == "scratch" or "://" in word:
        return word
    if Path(word).is_file() and makes:
        return str(locate(word, Path()) or word)  # a weights file in a run means the run
    if has_weights_suffix(word) and not Path(word).exists():
        raise no_weights_file(Path(word))
    if stage.trains and not makes and patch_of(word) is None and not Path(word).is_file():
        return run(word)
    if makes and word.count("/") == 1 and not word.startswith(_HUBS) and not Path(word).parent.exists():
        hint = f"check the path given to --teacher; for one on huggingface.co  --teacher hf-hub:{word}"
        raise CikdError(f"There is no run and no weights file {word}.", hint=hint)
    return network(word)


def _check_teacher(config: FinetuneTeacherConfig) -> None:
    """The images and the teacher of `cikd finetune-teacher`, and of `cikd run`."""
    _check_images(config.data)
    path = Path(config.teacher)
    if config.teacher == "scratch":
        patch: int | None = config.teacher_patch
    elif is_file(path / "run.json"):
        patch = _patch_of(RunDir.open(path, giving=TEACHER, whole=False))
    else:
        patch = patch_of(config.teacher_arch or path.name)
    if patch is not None:
        check_patch(config.image_size, patch)


def _check_training(stage: Stage, request: Request) -> None:
    options = request.options
    runs_dir = Path(options.runs_dir)
    named = runs_dir / options.name if options.name and options.go_on else None
    begun = options.resume or (named if named and (named / "run.json").is_file() else None)
    if begun is not None:
        run = RunDir.open(begun, stages=(stage.command,), finished=False, whole=False)
        _check_still_there(run, hint="put them back: a run goes on with its own images only")
        return
    resolved, inherited = resolve_stage(stage.config, request, whole=False)
    if not request.several:
        numbering.check_free(runs_dir, options.name, stage=stage.command)
    config: Any = resolved.config
    if isinstance(config, FinetuneTeacherConfig):
        _check_teacher(config)
        return
    parent = inherited.parent
    if config.data is None:
        raise no_images()
    if parent is not None and data_name(config.data) == parent.record.data.name:
        _check_still_there(parent, hint="--data DIR says where they lie now; they are known by their content")
    _check_images(config.data, labelled=stage.labels or _is_own(config.data, parent))
    patch = STUDENT_PATCH if parent is None else _patch_of(parent)
    if patch is not None:
        command = "" if parent is None else f"cikd finetune-teacher --data {config.data}"
        check_patch(config.image_size, patch, command=command)


def _check_analysis(stage: Stage, request: Request, config: StageConfig) -> None:
    """The runs of eval, mad and cka, and their images."""
    data = getattr(config, "data", None)
    words = [word for word in request.runs if (Path(word) / "run.json").is_file()]
    scores = not stage.networks
    runs = [open_classifier(word, whole=False) if scores else RunDir.open(word, whole=False) for word in words]
    if data is not None:
        _check_images(data, labelled=scores)
    elif runs:
        _check_still_there(runs[0], hint="--data DIR says where they lie now; they are known by their content")


def _check_images(data: str | None, *, labelled: bool = True) -> None:
    """That the data are named and there, and a folder laid out in classes; unlabelled, that it is not nearly so."""
    if data is None:
        raise no_images()
    check_data(data)
    if data in data_names():
        return
    try:
        read_layout(Path(data).expanduser().resolve())
    except CikdError as error:
        if labelled or isinstance(error, NearlyLayoutError):
            raise


def _check_still_there(run: RunDir, *, hint: str) -> None:
    """That the folder of a run's images is still there."""
    name = run.record.data.name
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise CikdError(f"The images of {run.path} are gone: there is no folder {name}", hint=hint)


def _is_own(data: str, parent: RunDir | None) -> bool:
    """Whether the data are those the parent learned from, with labels."""
    return parent is not None and data_name(data) == parent.record.data.name


def _patch_of(run: RunDir) -> int | None:
    """The patch side of a run's network; every student has its teacher's."""
    arguments = run.record.model.arguments
    patch = arguments.get("patch_size") or patch_of(str(arguments.get("name")))
    return patch if isinstance(patch, int) and patch > 0 else None
