"""How settings travel from `cikd run` to its stages, and from a run to its resume."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cikd_cli.config import CurriculumConfig, StageConfig
from cikd_cli.errors import CikdError
from cikd_cli.inheritance import STUDENT_KNOBS
from cikd_cli.knobs import suggestion
from cikd_cli.options import Request, Resolved, flag_name
from cikd_cli.recipes import SECTIONS, resolve

DEFAULT_DATA = "digits"  # embedded in scikit-learn: `cikd run` needs no download

# The flags of `cikd run`; each goes to every stage that has the knob, except --teacher (see `stage_request`).
CURRICULUM_FLAGS = (
    "data",
    "data_root",
    "download",
    "fraction",
    "val",
    "image_size",
    "skip_unreadable",
    "teacher",
    "teacher_arch",
    "student",
    "lob",
    "epochs",
    "batch_size",
    "precision",
    "seed",
)

# Of those whose defaults differ from stage to stage.
CURRICULUM_HELP = {
    "epochs": "Passes over the training images, in every stage. One stage: --set ali.epochs=100",
    "batch_size": "Images a step, in every stage. One stage: --set lm.batch_size=64",
}

_SHARED_DATA = ("data", "fraction", "val", "split_seed", "image_size", "mean", "std")
_RESUME_FLAGS = frozenset({"epochs"})
RESUME_OPTIONS = frozenset(
    {
        "resume",
        "gpus",
        "processes",
        "workers",
        "views",
        "runs_dir",
        "save_every",
        "stall_after",
        "quiet",
        "as_json",
        "dry_run",
    }
)


def stage_request(request: Request, command: str, **flags: Any) -> Request:
    """The request of one stage inside `cikd run`: the flags it has, its share of --set, and `flags` on top.

    command: "finetune-teacher", "ali" or "lm". --teacher names the pretrained network,
    so only finetune-teacher gets it. A flag gives way to a --set for this stage alone.
    """
    knobs = SECTIONS[command].model_fields
    own = {key: value for key, value in request.flags.items() if key in knobs}
    if command != "finetune-teacher":
        own.pop("teacher", None)
    for text in request.options.set:
        owner, dot, name = text.partition("=")[0].strip().rpartition(".")
        if dot and owner.replace("_", "-") == command:
            own.pop(name.replace("-", "_"), None)  # `--set ali.epochs=100` is narrower than `--epochs 10`
    options = request.options.model_copy(
        update={"set": _share(request.options.set, command), "name": None, "resume": None, "fresh": False}
    )
    return replace(request, stage=command, flags=own | flags, options=options, runs=())


def resolve_curriculum(request: Request) -> Resolved:
    """The CurriculumConfig of `cikd run`, with sources by dotted name (`ali.epochs`), and the recipe.

    Raises:
        CikdError: as `resolve`, and when the stages would see different data.
    """
    stages: dict[str, StageConfig] = {}
    sources: dict[str, str] = {}
    recipe: str | None = None
    for command, config_class in SECTIONS.items():
        share = stage_request(request, command)
        resolved = resolve(config_class, command, share.flags, options=share.options, default_data=DEFAULT_DATA)
        name = command.replace("-", "_")
        stages[name] = resolved.config
        sources |= {f"{name}.{key}": source for key, source in resolved.sources.items()}
        recipe = resolved.recipe
    _refuse_differences(stages)
    baseline = request.flags.get("baseline", False)
    sources["baseline"] = "flag" if "baseline" in request.flags else "default"
    return Resolved(CurriculumConfig.model_validate({**stages, "baseline": baseline}), sources, recipe)


def check_resume(request: Request, knobs: type[StageConfig]) -> None:
    """Raise CikdError if --resume is given together with anything but --epochs and how-to-run options."""
    resume = request.options.resume
    if resume is None:
        return
    fields = type(request.options).model_fields
    refused = [flag_name(key, knobs.model_fields[key]) for key in request.flags if key not in _RESUME_FLAGS]
    refused += [flag_name(key, fields[key]) for key in request.options.model_fields_set if key not in RESUME_OPTIONS]
    if refused:
        raise CikdError(
            f"--resume continues {resume} with its own settings, so {', '.join(sorted(refused))} cannot be given",
            hint=f"cikd {request.stage} --resume {resume}",
        )


def _share(texts: tuple[str, ...], command: str) -> tuple[str, ...]:
    """The --set values of `cikd run` for one stage: its own (`ali.epochs=1`), and those for all that have the knob."""
    share = []
    for text in texts:
        owner, dot, _ = text.partition("=")[0].rpartition(".")
        key = text.partition("=")[0].strip().rpartition(".")[2].replace("-", "_")
        owner = owner.strip().replace("_", "-")
        if dot and owner not in SECTIONS:
            raise CikdError(f"--set {text}: there is no stage named {owner!r}", hint=suggestion(owner, SECTIONS))
        if not dot and not any(key in config.model_fields for config in SECTIONS.values()):
            known = dict.fromkeys(name for config in SECTIONS.values() for name in config.model_fields)
            raise CikdError(f"--set {text}: no stage has a knob named {key!r}", hint=suggestion(key, known))
        if owner == command or (not dot and key in SECTIONS[command].model_fields):
            share.append(text)
    return tuple(share)


def _refuse_differences(stages: Mapping[str, StageConfig]) -> None:
    for key in (*_SHARED_DATA, *STUDENT_KNOBS):
        values = {name: getattr(config, key) for name, config in stages.items() if key in type(config).model_fields}
        if len(set(values.values())) > 1:
            said = ", ".join(f"{name} {value}" for name, value in values.items())
            raise CikdError(
                f"All stages of a curriculum share {key}, but: {said}",
                hint=f"--set {key}=VALUE is for all of them, and so is [common] in a recipe",
            )
