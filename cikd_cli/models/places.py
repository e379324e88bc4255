"""Where the words of --teacher send us: a file, a folder, a repository of the hub, or timm by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cikd_cli.errors import CikdError
from cikd_cli.files import has_weights_suffix
from cikd_cli.models.formats import OTHER_SUFFIXES
from cikd_cli.models.hub import WEIGHTS
from cikd_cli.text import listed

_HUB, _FOLDER = ("hf-hub", "hf_hub"), ("local-dir", "local_dir")
_CHECK = "check the path given to --teacher"


@dataclass(frozen=True)
class Place:
    """text: a path, the repository's name, or timm's."""

    kind: Literal["file", "folder", "hub", "timm"]
    text: str

    @property
    def path(self) -> Path:
        """Of a file or folder."""
        return Path(self.text)


def find_place(name: str) -> Place:
    """A file that is there is a file, whatever its name; `hf-hub:` and `local-dir:` mean what they do in timm.

    Raises CikdError for a path with nothing at it, and for an address of the web.
    """
    source, colon, rest = name.partition(":")
    if colon and source.lower() in _HUB:
        return Place("hub", rest)
    local = bool(colon) and source.lower() in _FOLDER
    path = Path(rest if local else name).expanduser()
    try:
        if path.is_file():
            return Place("file", str(path))
        if path.is_dir():
            return Place("folder", str(path))
    except OSError as error:
        raise CikdError(f"There is no weights file {path} ({error.strerror}).", hint=_CHECK) from error
    if local:
        raise CikdError(f"There is no folder {path}.", hint=_CHECK)
    if "://" in name:
        raise CikdError(f"{name} is an address, not a file.", hint=f"curl -LO {name}, then --teacher FILE")
    if name.startswith("timm/"):
        return Place("hub", name)
    if name.lower().endswith((*OTHER_SUFFIXES,)) or has_weights_suffix(name) or name.startswith((".", "/", "~", "\\")):
        raise CikdError(f"There is no weights file {name}.", hint=_CHECK)
    if "/" in name:
        hint = f"{_CHECK}; for one on huggingface.co  --teacher hf-hub:{name}"
        raise CikdError(f"There is no run and no weights file {name}.", hint=hint)
    return Place("timm", name)


def whole_name(name: str) -> str:
    """The same words, so that they mean the same in another working directory."""
    source, colon, rest = name.partition(":")
    local = bool(colon) and source.lower() in _FOLDER
    return f"local-dir:{Path(rest).expanduser().resolve()}" if local else name


def weights_in(folder: Path) -> Path:
    """The weights file of a folder: under the hub's usual name, else the only one.

    Raises CikdError for none, or several.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    found = [file for file in files if has_weights_suffix(file.name)]
    if len(found) == 1:
        return found[0]
    if any(file.name.endswith(".index.json") for file in files):
        raise CikdError(f"The weights in {folder} are in {len(found)} parts.", hint="save them again as one file")
    if found:
        names = listed(file.name for file in found)
        raise CikdError(f"{folder} holds {len(found)} weights files: {names}.", hint=f"--teacher {found[0]}")
    others = [file for file in files if file.name.lower().endswith(OTHER_SUFFIXES)]
    if others:
        return others[0]  # whoever reads it says what it is
    raise CikdError(
        f"{folder} is not a run and holds no weights file.",
        hint="--teacher takes a run, a weights file, a folder that holds one, hf-hub:OWNER/NAME, or timm's name",
    )
