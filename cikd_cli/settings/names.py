"""Names that settings take: of recipes that come with the program, of data sets, and of folders in their place."""

from functools import cache
from pathlib import Path

from cikd_cli.errors import CikdError
from cikd_cli.files import read_toml
from cikd_cli.render import template_root
from cikd_cli.settings.parse import nearest


def recipe_names() -> list[str]:
    """The names of the recipes that come with the program."""
    return sorted(path.stem for path in (template_root() / "recipes").glob("*.toml"))


def check_data(data: str) -> None:
    """Raise CikdError unless `data` is the name of a data set or a folder that is there."""
    names = data_names()
    try:
        is_folder, is_there = Path(data).is_dir(), Path(data).exists()
    except OSError:  # too long for a name
        is_folder = is_there = False
    if data in names or is_folder:
        return
    if is_there:
        raise CikdError(
            f"{data} is a file, not a folder of images", hint="name the folder that holds the class folders"
        )
    found = nearest(data, [*_folders_beside(Path(data)), *names])
    hint = f"did you mean {found}?" if found else "give an existing folder, or one of: " + ", ".join(names)
    raise CikdError(f"There is no data set and no folder named {data!r}", hint=hint)


def no_images() -> CikdError:
    """The sentence where a training stage has no data."""
    return CikdError("No images are named.", hint="--data digits, another named set, or a folder of class folders")


def _folders_beside(path: Path) -> list[str]:
    """The visible folders in the folder where `path` would be."""
    try:
        beside = sorted(path.parent.iterdir())
        return [str(entry) for entry in beside if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []


@cache
def data_names() -> list[str]:
    """The data sets that have a recipe of their own name."""
    folder = template_root() / "recipes"
    return [
        name for name in recipe_names() if read_toml(folder / f"{name}.toml", "recipe")["common"].get("data") == name
    ]


def data_name(data: str) -> str:
    """What a run records of `data`: the name of a set, or the folder's full path."""
    return data if data in data_names() else str(Path(data).resolve())
