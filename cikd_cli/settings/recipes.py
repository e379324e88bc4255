"""Recipes, and precedence: default < recipe < parent run < --config < --set < flag, with the source of every value.

A recipe is TOML with sections: [common], for every training stage that has the knob; [finetune-teacher]; [ali]; [lm].
Above them `batch_follows_data = true` may stand: its batch is nobody's published one, and a small set gets a smaller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cikd_cli.errors import CikdError
from cikd_cli.files import read_toml
from cikd_cli.render import template_root
from cikd_cli.settings.configs import StageConfig
from cikd_cli.settings.knob import Role, facts_of, knobs_with
from cikd_cli.settings.names import check_data, data_names, recipe_names
from cikd_cli.settings.parse import check_keys, parse, suggestion, validate
from cikd_cli.settings.request import Resolved, RunOptions
from cikd_cli.settings.stages import STAGES, sections

FOLDER_RECIPE = "folder"
BATCH_FOLLOWS_DATA = "batch_follows_data"


@dataclass(frozen=True)
class Recipe:
    """The settings of a recipe by section, and whether its batch is the largest of a set rather than every set's."""

    name: str
    sections: dict[str, dict[str, Any]]
    batch_follows_data: bool = False

    def values(self, config_class: type[StageConfig], section: str) -> dict[str, Any]:
        """What the recipe says to a stage: [common] as far as it has the knob, then its own section."""
        common = self.sections.get("common", {})
        shared = {key: value for key, value in common.items() if key in config_class.model_fields}
        return shared | self.sections.get(section, {})


def load_recipe(name: str) -> Recipe:
    """A recipe by name or `.toml` path, with every section and key checked.

    Raises:
        CikdError: no such recipe, not TOML, or a section or key that does not exist.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = template_root() / "recipes" / f"{name}.toml"
        if name not in recipe_names():
            raise CikdError(f"There is no recipe named {name!r}", hint=suggestion(name, recipe_names()))
    settings = read_toml(path, "recipe")
    follows = settings.pop(BATCH_FOLLOWS_DATA, False)
    if not isinstance(follows, bool):
        raise CikdError(
            f"Recipe {path.name}: {BATCH_FOLLOWS_DATA} must be true or false, not {follows!r}",
            hint=f"{BATCH_FOLLOWS_DATA} = true",
        )
    for section, keys in settings.items():
        known = ["common", *sections()]
        if section not in known:
            hint = suggestion(section, known) if isinstance(keys, dict) else f"put it under one of: {', '.join(known)}"
            raise CikdError(f"Recipe {path.name}: {section!r} is not a section", hint=hint)
        if not isinstance(keys, dict):
            raise CikdError(
                f"Recipe {path.name}: {section!r} must be a section", hint=f"write [{section}] above its keys"
            )
        _check_section(section, keys, f"Recipe {path.name}")
    return Recipe(name if name in recipe_names() else str(path.resolve()), settings, follows)


def resolve(
    config_class: type[StageConfig],
    section: str,
    flags: Mapping[str, Any],
    *,
    options: RunOptions,
    inherited: Mapping[str, Any] | None = None,
    inherited_from: str | None = None,
    default_data: str | None = None,
) -> Resolved:
    """The complete config of one stage.

    inherited: what a parent run fixes; a typed value (--config, --set, flag) that contradicts it is an error.
    default_data: the data set if nothing else names one (`cikd run`).

    Raises:
        CikdError: unknown data set, recipe, section or key; a value out of bounds; a contradiction.
    """
    fixed = {key: value for key, value in (inherited or {}).items() if key in config_class.model_fields}
    typed = _typed_layers(config_class, section, flags, options)
    data = next((values["data"] for _, values in reversed(typed) if values.get("data") is not None), None)
    if data is not None:
        check_data(data)
    recipe = _choose_recipe(section, options.recipe, data or fixed.get("data") or default_data)
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if default_data is not None:
        layers.append(("default", {"data": default_data}))
    if recipe is not None:
        layers.append((f"recipe {recipe.name}", recipe.values(config_class, section)))
    layers.append((f"from {inherited_from}", fixed))
    sources = dict.fromkeys(config_class.model_fields, "default")
    values: dict[str, Any] = {}
    for source, layer in [*layers, *typed]:
        values |= layer
        sources |= dict.fromkeys(layer, source)
    _refuse_contradictions(config_class, section, fixed, typed, inherited_from or "its parent")
    by_data = frozenset({"batch_size"} if STAGES[section].trains and _free(sources["batch_size"], recipe) else ())
    sources |= {key: f"{sources[key]}, or fewer by the data" for key in by_data}
    return Resolved(validate(config_class, values, command=section), sources, recipe.name if recipe else None, by_data)


def _free(source: str, recipe: Recipe | None) -> bool:
    """Whether a batch from `source` was named neither by a person nor by a published recipe."""
    if source == "default":
        return True
    return recipe is not None and recipe.batch_follows_data and source == f"recipe {recipe.name}"


def typed_values(
    config_class: type[StageConfig], section: str, flags: Mapping[str, Any], options: RunOptions
) -> dict[str, Any]:
    """What the user typed for a stage, by --config, --set or flag, the later over the earlier."""
    values: dict[str, Any] = {}
    for _, layer in _typed_layers(config_class, section, flags, options):
        values |= layer
    return values


def assignments(texts: tuple[str, ...], section: str) -> dict[str, str]:
    """The `--set` values for one stage: `key=value`, or `section.key=value`."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise CikdError(f"--set {text} has no value", hint=f"--set {text}=VALUE")
        owner, dot, name = key.strip().rpartition(".")
        if dot and owner.replace("_", "-") != section:
            raise CikdError(f"--set {text} is for {owner!r}, not for {section}", hint=f"--set {name}={value}")
        found[name.replace("-", "_")] = value.strip()
    return found


def _typed_layers(
    config_class: type[StageConfig], section: str, flags: Mapping[str, Any], options: RunOptions
) -> list[tuple[str, dict[str, Any]]]:
    layers: list[tuple[str, dict[str, Any]]] = []
    if options.config is not None:
        source = f"config {options.config}"
        layers.append((source, _file_values(config_class, section, Path(options.config))))
    assigned = assignments(options.set, section)
    check_keys(config_class, assigned, "--set", command=section)
    layers.append(("--set", dict(assigned)))
    layers.append(("flag", dict(flags)))
    return [(source, parse(config_class, values, command=section)) for source, values in layers]


def _file_values(config_class: type[StageConfig], section: str, path: Path) -> dict[str, Any]:
    """A run's config.toml (keys at the top), or a file with a recipe's sections."""
    content = read_toml(path, "config")
    content.pop(BATCH_FOLLOWS_DATA, None)  # a recipe's; the batch in a config file is the user's own
    flat = {key: value for key, value in content.items() if not isinstance(value, dict)}
    check_keys(config_class, flat, str(path), command=section)
    settings = {key: value for key, value in content.items() if isinstance(value, dict)}
    known = ["common", *sections()]
    for name, keys in settings.items():
        if name not in known:
            raise CikdError(f"{path}: {name!r} is not a section", hint=suggestion(name, known))
        _check_section(name, keys, str(path))
    return flat | Recipe(path.stem, settings).values(config_class, section)


def _check_section(section: str, keys: Mapping[str, Any], where: str) -> None:
    if section == "common":
        known = dict.fromkeys(key for config_class in sections().values() for key in config_class.model_fields)
        for key in keys:
            if key not in known:
                raise CikdError(f"{where}: no stage has a knob named {key!r}", hint=suggestion(key, known))
    else:
        check_keys(STAGES[section].config, keys, f"{where} [{section}]", command=section)


def _choose_recipe(section: str, name: str | None, data: str | None) -> Recipe | None:
    if not STAGES[section].trains:
        return None
    if name is not None:
        return load_recipe(name)
    if data is None:
        return None
    return load_recipe(data if data in data_names() else FOLDER_RECIPE)


def _refuse_contradictions(
    config_class: type[StageConfig],
    section: str,
    fixed: Mapping[str, Any],
    typed: list[tuple[str, dict[str, Any]]],
    parent: str,
) -> None:
    settled = parse(config_class, fixed, command=section)
    may_differ = knobs_with(config_class, Role.PLACE)
    for source, values in typed:
        for key, value in values.items():
            if key not in settled or key in may_differ or _same(config_class, key, value, settled[key]):
                continue
            if key == "data" and Path(value).is_dir() and Path(settled[key]).is_absolute():
                continue  # a folder may have moved: `training/images` looks whether its images are the same
            if key == "data" and STAGES[section].labels:
                raise CikdError(
                    f"data {value} is not what {parent} was made for, {settled[key]}",
                    hint=f"cikd finetune-teacher --data {value} makes a teacher for it",
                )
            what = f"{key} {value}" if source == "flag" else f"{key} {value} ({source})"
            raise CikdError(f"{what} contradicts {parent}, which has {key} {settled[key]}", hint=f"leave {key} out")


def _same(config_class: type[StageConfig], key: str, one: Any, other: Any) -> bool:
    is_path = key == "data" or facts_of(config_class.model_fields[key]).takes
    if is_path and isinstance(one, str) and isinstance(other, str):
        return one == other or Path(one).resolve() == Path(other).resolve()
    return bool(one == other)
